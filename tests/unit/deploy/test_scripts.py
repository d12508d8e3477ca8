"""The shell of deploy/, also that inside of other files: shellcheck is content, and two scripts do what they say."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch")])
IMAGES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
CLUSTERS = [path for path in sorted((DEPLOY / "ray").glob("*.yaml")) if path.name != "local.yaml"]
BIN = Path(sysconfig.get_path("scripts"))


def complaints(text: str, shell: str | None = None) -> str:
    """What shellcheck says of a script."""
    told = [f"--shell={shell}"] if shell else []
    command = [BIN / "shellcheck", *told, "--format=gcc", "--external-sources", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT, timeout=60).stdout


def commands(image: Path) -> list[str]:
    """The RUN lines of a Dockerfile."""
    text = re.sub(r"\\\n\s*", " ", image.read_text())
    return re.findall(r"^RUN (.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say_of_a_script(path):
    assert complaints(path.read_text()) == ""


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_nor_of_the_commands_of_a_cluster_file(path):
    config = yaml.safe_load(path.read_text())
    lists = [key for key in config if key.endswith("_commands")]
    # Ray sets the head's address before a worker's command.
    script = "\n".join(["RAY_HEAD_IP=10.0.0.1", *(line for key in lists for line in config[key])])
    assert len(lists) >= 4
    assert complaints(script, "bash") == ""


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_nor_of_the_commands_of_an_image(path):
    assert commands(path)
    assert complaints("\n".join(commands(path)), "sh") == ""


def test_shellcheck_finds_what_is_planted():
    assert "SC2086" in complaints("#!/bin/sh\nrm -rf $1/tmp\n")
    assert "SC2154" in complaints("echo $nobody_set_this", "bash")


@pytest.fixture
def starter(tmp_path):
    """Runs deploy/train.sh with an `rloop` that says what it was asked, and with runs in `tmp_path`."""
    rloop = tmp_path / "rloop"
    rloop.write_text('#!/bin/sh\necho "$@"\n')
    rloop.chmod(0o755)

    def start(*words: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RLOOP_CLUSTER__RUNS_DIR": str(tmp_path)}
        command = [shutil.which("sh"), DEPLOY / "train.sh", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=20)

    return start


def test_the_same_command_starts_a_run_and_goes_on_with_it(starter, tmp_path):
    words = ("first", "demo.yaml", "schedule.iterations=2")
    assert starter(*words).stdout == "train demo.yaml schedule.iterations=2 --name first\n"
    (tmp_path / "first").mkdir()
    assert starter(*words).stdout == "train demo.yaml schedule.iterations=2 --name first\n"  # no run of ours yet
    (tmp_path / "first" / "config.yaml").touch()
    assert starter(*words).stdout == "train demo.yaml schedule.iterations=2 --name first --resume\n"


def test_a_run_without_a_recipe_is_refused(starter):
    done = starter("first")
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr


PAPER_PYTHON = """#!/bin/sh
case "$*" in
    *version_info*print*|*print*version_info*) echo 3 11 ;;
    *"-m venv"*)
        mkdir -p "$4/bin" && cp "$0" "$4/bin/python"
        printf '#!/bin/sh\\necho "$@" >>"$BOOK"\\n' >"$4/bin/uv"
        cp "$4/bin/uv" "$4/bin/rloop" && chmod +x "$4"/bin/* ;;
esac
"""


@pytest.fixture
def asked(tmp_path):
    """What deploy/install.sh asks uv for, a line each; Python, uv and the environment are of paper."""
    python = tmp_path / "python"
    python.write_text(PAPER_PYTHON)
    python.chmod(0o755)

    def install(**settings: str) -> list[str]:
        book = tmp_path / "book"
        env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "VENV": str(tmp_path / "venv"), "BOOK": str(book)}
        subprocess.run(["sh", DEPLOY / "install.sh"], env=env | settings, cwd=ROOT, check=True, timeout=20)
        return book.read_text().splitlines()

    return install


@pytest.mark.parametrize(("name", "from_cpus"), [("cpu.txt", True), ("cpu-hashes.txt", True), ("gpu.txt", False)])
def test_torch_is_a_cpu_build_only_where_the_pins_are_those_for_cpus(asked, name, from_cpus):
    packages, checkout, version = asked(REQUIREMENTS=f"requirements/{name}")
    assert ("--torch-backend=cpu" in packages) == from_cpus
    assert packages.endswith(f"-r requirements/{name}")
    assert "--no-deps" in packages
    assert checkout.endswith("--no-build-isolation -e .")
    assert version == "--version"


def test_an_image_can_install_the_packages_without_the_code(asked):
    assert len(asked(PACKAGES_ONLY="yes")) == 1
