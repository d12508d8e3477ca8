"""The Dockerfiles by rules that need no Docker: fixed bases, pinned packages, no root, nothing fetched besides."""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
IMAGES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))
NOT_IN_AN_IMAGE = [".git", ".venv", "runs", "tests", "deploy/ray/aws.yaml", ".env"]


def lines(text: str) -> list[tuple[str, str]]:
    """Instruction and words, comments and broken lines removed."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def shipped(path: str) -> bool:
    """Whether .dockerignore lets a path into the build: the last pattern that fits it or a folder above it decides."""
    above = ["/".join(path.split("/")[: n + 1]) for n in range(path.count("/") + 1)]
    inside = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if pattern and not pattern.startswith("#"):
            name = pattern.removeprefix("!")
            if name == "**" or any(fnmatch(one, name) or fnmatch("/" + one, name.replace("**", "*")) for one in above):
                inside = pattern.startswith("!")
    return inside


def faults(text: str) -> Iterator[str]:
    """What is wrong with a Dockerfile, a sentence each."""
    users = [rest for word, rest in lines(text) if word == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]):
        yield "the last USER must be a number that is not root's: Kubernetes cannot tell by a name"
    if lines(text)[-1][0] not in ("CMD", "ENTRYPOINT"):
        yield "does not end with a command"
    for word, rest in lines(text):
        if word == "FROM" and not re.fullmatch(r"[\w./-]+:\d[\w.-]*( AS \w+)?", rest):
            yield f"FROM {rest}: name a fixed version"
        if word == "ADD":
            yield f"ADD {rest}: COPY says what comes from where"
        if word == "RUN" and re.search(r"\b(curl|wget|git clone|sudo)\b|pip install", rest):
            yield f"RUN {rest}: packages come pinned, through deploy/install.sh"
        if word == "COPY" and not rest.startswith("--from="):
            for source in rest.split()[:-1]:
                if not (ROOT / source).exists() or (source != "." and not shipped(source)):
                    yield f"COPY {source}: not there, or .dockerignore leaves it out"
        if word in ("ENV", "ARG"):
            for name, value in re.findall(r"([A-Z_]*(?:TOKEN|SECRET|PASSWORD|KEY)[A-Z_]*)=(\S+)", rest):
                yield f"{name}={value}: an image is no place for a secret"


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_an_image_keeps_the_rules(path):
    assert list(faults(path.read_text())) == []


@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ("FROM python:latest", "name a fixed version"),
        ("FROM python", "name a fixed version"),
        ("USER root", "last USER"),
        ("USER rloop", "last USER"),
        ("ADD archive.tar /", "COPY says"),
        ("RUN pip install torch", "pinned"),
        ("COPY deploy/missing.sh deploy/", "not there"),
        ("COPY tests tests", "leaves it out"),
        ("ENV RAY_AUTH_TOKEN=abc", "no place for a secret"),
    ],
)
def test_what_breaks_a_rule_is_told(planted, why):
    text = IMAGES[0].read_text().replace('\nCMD ["rloop', f'\n{planted}\nCMD ["rloop')
    assert any(why in fault for fault in faults(text))


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_an_image_installs_from_pins_that_are_there(path):
    [pins] = [rest.removeprefix("REQUIREMENTS=") for word, rest in lines(path.read_text()) if "REQUIREMENTS=" in rest]
    assert (ROOT / pins).is_file()
    assert shipped(pins)
    assert ("gpu" in pins) == (path.stem == "cuda")


def test_the_build_sees_the_code_and_nothing_private():
    packages = ["actors", "cluster", "rollout", "trainer", "verifiers", "recipes", "examples"]
    for path in [*packages, "cluster/cli.py", "deploy/install.sh", "deploy/train.sh", "pyproject.toml", "README.md"]:
        assert shipped(path), path
        assert (ROOT / path).exists()
    assert [path for path in NOT_IN_AN_IMAGE if shipped(path)] == []
    assert not shipped("cluster/__pycache__")


def test_an_image_speaks_to_ray_with_a_token_only():
    for path in IMAGES:
        assert any("RAY_AUTH_MODE=token" in rest for word, rest in lines(path.read_text()) if word == "ENV")
        assert any("RAY_JOB_STOP_WAIT_TIME_S=80" in rest for word, rest in lines(path.read_text()) if word == "ENV")
