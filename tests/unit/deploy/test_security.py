"""What no file under deploy/ may do: start a Ray that asks for no token, open its job port, or hold a secret."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".pyc")
SAFE_HEAD = "umask 077; RAY_AUTH_MODE=token RAY_JOB_STOP_WAIT_TIME_S=80 ray start --head --dashboard-host=127.0.0.1"

SECRETS = {
    "a key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "a token's value": r"RAY_AUTH_TOKEN\s*[=:]\s*[\"']?[0-9A-Za-z]{8,}",
    "a Secret with a value": r"^\s*(stringData|auth_token):",
    "a password": r"(?i)(password|secret_access_key)\s*[=:]\s*[\"']?[^\s\"'$]{4,}",
}


def faults(text: str) -> Iterator[str]:
    """What a file does that none may do, a sentence each."""
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    if "ray start" in text and "RAY_AUTH_MODE=token" not in text:
        yield "starts Ray without RAY_AUTH_MODE=token: whoever reaches its ports runs code"
    if "ray start" in text and "umask 077" not in text:
        yield "starts Ray without umask 077: what people submit, and what it prints, is for everybody on the machine"
    if "start --head" in text and "RAY_JOB_STOP_WAIT_TIME_S" not in text and "sbatch" not in text:
        yield "starts a head that kills jobs before they have written a checkpoint"
    for host in re.findall(r"--dashboard-host[= ](\S+)", text):
        if host.strip("\"'") != "127.0.0.1":
            yield f"binds the dashboard and the job port to {host}"
    if re.search(r"ray\"? start --head", text) and "--dashboard-host=127.0.0.1" not in text:
        yield "starts a head without saying that its dashboard is for this host"
    if re.search(r"dashboard-host: |type: (NodePort|LoadBalancer)|serviceType: (NodePort|LoadBalancer)", text):
        yield "shows the dashboard outside"
    if re.search(r"mode: disabled|RAY_AUTH_MODE[=: ]+disabled", text):
        yield "switches authentication off"
    if re.search(r"kind: Ray(Cluster|Job)", text) and "authOptions: {mode: token" not in text:
        yield "a Ray manifest without authOptions"
    if re.search(r"privileged: true|hostNetwork: true|hostPID: true|hostPath:", text):
        yield "a pod that reaches its host"
    for what, pattern in SECRETS.items():
        if re.search(pattern, text, re.MULTILINE):
            yield f"holds {what}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_a_file_starts_nothing_open_and_holds_no_secret(path):
    assert list(faults(path.read_text())) == []


def test_the_rules_accept_what_they_ask_for():
    assert list(faults(SAFE_HEAD)) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SAFE_HEAD.replace("RAY_AUTH_MODE=token ", ""), "without RAY_AUTH_MODE=token"),
        ("# RAY_AUTH_MODE=token\nray start --address=h:6379", "without RAY_AUTH_MODE=token"),
        (SAFE_HEAD.replace("umask 077; ", ""), "without umask 077"),
        (SAFE_HEAD.replace("RAY_JOB_STOP_WAIT_TIME_S=80 ", ""), "kills jobs before"),
        (SAFE_HEAD.replace("127.0.0.1", "0.0.0.0"), "to 0.0.0.0"),
        ("RAY_AUTH_MODE=token ray start --head", "without saying"),
        ("serviceType: LoadBalancer", "outside"),
        ("rayStartParams: {dashboard-host: 0.0.0.0}", "outside"),
        ("authOptions: {mode: disabled}", "off"),
        ("kind: RayJob\nspec: {}", "without authOptions"),
        ("hostNetwork: true", "reaches its host"),
        ("RAY_AUTH_TOKEN=0123456789abcdef", "a token's value"),
        ("kind: Secret\nstringData:\n  auth_token: x", "a Secret with a value"),
        ("aws_secret_access_key = abcdefgh", "a password"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a key"),
    ],
)
def test_what_breaks_a_rule_is_told(text, why):
    assert any(why in fault for fault in faults(text))


def test_the_token_file_is_closed_before_ray_starts():
    """Ray makes a missing token file readable for everybody (seen with 2.60)."""
    for name in ("aws", "gcp", "on-premise"):
        text = (DEPLOY / "ray" / f"{name}.yaml").read_text()
        assert "~/.ray/auth_token: ~/.ray/auth_token" in text
        assert text.index("chmod 600 ~/.ray/auth_token") < text.index("ray start --head")
    local = (DEPLOY / "ray" / "local.sh").read_text()
    assert local.index("umask 077") < local.index('chmod 600 "$token"') < local.index("start --head")
    slurm = (DEPLOY / "slurm" / "rloop.sbatch").read_text()
    assert slurm.index("umask 077") < slurm.index("start --head")
