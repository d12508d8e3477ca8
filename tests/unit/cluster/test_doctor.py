import io

from packaging.requirements import Requirement
from rich.console import Console

from cluster.doctor import Finding, show, versions

INSTALLED = {"torch": "2.13.0+cpu", "ray": "2.59.1"}


def test_versions_are_held_against_the_requirements_whatever_the_build() -> None:
    wanted = [Requirement("torch==2.13.0"), Requirement("ray[default]>=2.60,<3"), Requirement("rich>=14")]
    summary, ray, rich = versions(wanted, INSTALLED.get)
    assert summary == Finding("packages", "OK", "1 of 3 requirements fit")
    assert (ray.status, ray.found) == ("FAIL", "2.59.1")
    assert (rich.found, rich.remedy) == ("not installed", "needs rich>=14; run: make setup")


def test_the_table_ends_with_remedies_and_a_verdict() -> None:
    console = Console(record=True, width=100, file=io.StringIO())
    show([Finding("cores", "OK", "2"), Finding("lscpu", "FAIL", "not on PATH", "install util-linux")], console)
    text = console.export_text()
    assert "FAIL lscpu: install util-linux" in text
    assert text.rstrip().endswith("1 of 2 checks failed.")
