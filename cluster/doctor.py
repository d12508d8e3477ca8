"""`rloop doctor`: can this environment run RLoop? One line per check, with a remedy where the answer is no.

Heavy imports are tried in a process of their own, so that a broken build is a finding and not a crash here.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from cluster.machine import GIB, MIB, Machine
from cluster.packages import DISTRIBUTION, installed_collisions

_STYLE = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}
_IMPORT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Literal["OK", "WARN", "FAIL"]
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Run every check, cheap ones first."""
    machine = Machine.here()
    return [
        Finding("python", "OK", f"{platform.python_version()} ({sys.executable})"),
        *versions(_requirements(), _installed),
        *_names(),
        *_machine(machine),
        _tool("lscpu", "vLLM's CPU build asks it for the cores; install util-linux", fatal=not machine.has_gpu),
        _compiler(),
        _import("torch", "import torch; print(torch.__version__, 'CUDA' if torch.cuda.is_available() else 'CPU')"),
        _import("vllm", "import vllm; from vllm.v1.engine.async_llm import AsyncLLM; print(vllm.__version__)"),
        _import("ray", "import ray; print(ray.__version__)"),
        _flash_attention(machine.has_gpu),
    ]


def show(findings: list[Finding], console: Console) -> None:
    """Draw the findings as a table, remedies below."""
    table = Table("check", "", "found")
    for finding in findings:
        table.add_row(finding.check, f"[{_STYLE[finding.status]}]{finding.status}", finding.found)
    console.print(table)
    for finding in findings:
        if finding.remedy:
            console.print(f"{finding.status} {finding.check}: {finding.remedy}", markup=False, highlight=False)
    bad = sum(finding.status == "FAIL" for finding in findings)
    console.print(f"{bad} of {len(findings)} checks failed." if bad else "This environment can run RLoop.")


def versions(requirements: list[Requirement], installed: Callable[[str], str | None]) -> list[Finding]:
    """One finding for all requirements that fit, one each for those that do not."""
    findings = []
    for requirement in requirements:
        found = installed(requirement.name)
        if found is None or not requirement.specifier.contains(found.partition("+")[0], prereleases=True):
            findings.append(
                Finding(requirement.name, "FAIL", found or "not installed", f"needs {requirement}; run: make setup")
            )
    fit = len(requirements) - len(findings)
    return [Finding("packages", "OK", f"{fit} of {len(requirements)} requirements fit"), *findings]


def _requirements() -> list[Requirement]:
    """What the distribution asks for, without extras."""
    texts = importlib.metadata.requires(DISTRIBUTION) or []
    parsed = [Requirement(text) for text in texts]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _names() -> list[Finding]:
    sentences = installed_collisions()
    if not sentences:
        return [Finding("package names", "OK", "actors, cluster, rollout, trainer, verifiers are ours")]
    return [Finding("package names", "FAIL", "collision", sentence) for sentence in sentences]


def _machine(machine: Machine) -> list[Finding]:
    memory, shm = machine.memory / GIB, machine.shared_memory // MIB
    return [
        Finding("cores", "OK", str(machine.cores))
        if machine.cores >= 2
        else Finding("cores", "WARN", str(machine.cores), "engine and learner take turns; give it two or more"),
        Finding("memory", "OK", f"{memory:.1f} GiB free")
        if memory >= 5
        else Finding("memory", "FAIL", f"{memory:.1f} GiB free", "a tiny model takes about 5 GiB; free some"),
        Finding("/dev/shm", "OK", f"{shm} MiB free")
        if shm >= 256
        else Finding("/dev/shm", "FAIL", f"{shm} MiB free", "Ray's object store lies there: docker run --shm-size=1g"),
    ]


def _tool(name: str, why: str, fatal: bool) -> Finding:
    if path := shutil.which(name):
        return Finding(name, "OK", path)
    return Finding(name, "FAIL" if fatal else "WARN", "not on PATH", why)


def _compiler() -> Finding:
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return Finding("C compiler", "OK", path)
    return Finding(
        "C compiler", "WARN", "none on PATH", "building some wheels and compiled kernels need one: install gcc"
    )


def _import(name: str, code: str) -> Finding:
    """Import in a fresh process and report what it printed last."""
    try:
        done = _python(code)
    except subprocess.TimeoutExpired:
        return Finding(
            name, "FAIL", f"import took more than {_IMPORT_TIMEOUT_S:g} s", "is the disk or the machine stuck?"
        )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no output"]
    if done.returncode == 0:
        return Finding(name, "OK", lines[-1])
    return Finding(
        name, "FAIL", lines[-1][:200], "its parts do not fit together; make the environment anew: make setup"
    )


def _flash_attention(has_gpu: bool) -> Finding:
    found = _installed("flash-attn")
    if found or not has_gpu:
        return Finding("flash-attn", "OK", found or "not needed without a GPU")
    return Finding("flash-attn", "WARN", "not installed", "sdpa is used; faster: pip install 'rloop[flash-attn]'")


def _python(code: str, environ: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=_IMPORT_TIMEOUT_S,
        env={**environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"},
        check=False,
    )
