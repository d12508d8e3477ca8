"""The attack suite, per tier. `python tests/sandbox/sandbox_attacks.py` prints the same as a table."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_attacks import ESCAPES, HACKS, HONEST, KNOWN_GAPS, Witness, escape, tiers_here, verdicts, witness

from verifiers.code_answer import CodeAnswer
from verifiers.sandbox.jail import Jail
from verifiers.sandbox.tiers import _PROBE

TIERS = tiers_here()
SAFE = [tier for tier in TIERS if tier != "D"]


@pytest.fixture(scope="module", params=SAFE)
def seen(request: pytest.FixtureRequest) -> Iterator[Witness]:
    with Jail(request.param) as jail, witness(jail) as seen:
        yield seen


def test_the_suite_has_more_than_sixty_attacks_and_honest_controls() -> None:
    assert len(ESCAPES) + len(HACKS) >= 60
    assert len(HONEST) >= 10


def test_the_page_counts_them_right() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    assert f"holds {len(ESCAPES)} escapes, {len(HACKS)} answers" in page
    assert f"{len(HONEST)} honest programs" in page
    probes = len(re.findall(r"^        \"[a-z A-Z]+\": ", _PROBE, re.MULTILINE))
    assert f"a self test attempts {probes} escapes" in page


@pytest.mark.skipif(not SAFE, reason="no tier above D works on this machine")
@pytest.mark.parametrize("name", ESCAPES)
def test_no_escape_comes_off(seen: Witness, name: str) -> None:
    came_off = escape(seen.jail, seen, ESCAPES[name])
    assert bool(came_off) == (name in KNOWN_GAPS[seen.jail.tier]), came_off


@pytest.mark.skipif(
    "D" not in TIERS or os.geteuid() != 0, reason="attacks run free in tier D: only under a uid of their own"
)
@pytest.mark.parametrize("name", ["read a file", "write a file", "fork", "list processes"])
def test_the_attacks_are_real_where_nothing_but_limits_holds_them(name: str) -> None:
    with Jail("D") as jail, witness(jail) as seen:
        assert escape(jail, seen, ESCAPES[name])


@pytest.fixture(scope="module", params=SAFE)
def verifiers(request: pytest.FixtureRequest) -> Iterator[tuple[CodeAnswer, CodeAnswer]]:
    strict, patient = (
        CodeAnswer(tier=request.param, wall_s=1.5, cpu_s=1),
        CodeAnswer(tier=request.param, wall_s=60, cpu_s=30),
    )
    yield strict, patient
    strict.close()
    patient.close()


@pytest.mark.skipif(not SAFE, reason="no tier above D works on this machine")
@pytest.mark.parametrize("name", HACKS)
def test_no_hack_is_paid(verifiers: tuple[CodeAnswer, CodeAnswer], name: str) -> None:
    for verdict in verdicts(verifiers[0], HACKS[name]):
        assert verdict.status in ("wrong", "timeout"), verdict
        assert verdict.reward in (0.0, None)
        assert verdict.feedback


@pytest.mark.skipif(not SAFE, reason="no tier above D works on this machine")
@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_are_paid_and_not_suspected(verifiers: tuple[CodeAnswer, CodeAnswer], name: str) -> None:
    for verdict in verdicts(verifiers[1], HONEST[name]):
        assert verdict.status == "correct", verdict
        assert verdict.reward == 1.0
        suspicions = dict(verdict.facts)
        if verdict.isolation == "C" and name == "reads a missing file":
            assert suspicions.pop("denied_syscalls") >= 1  # no file is opened there
            suspicions["denied_syscalls"] = 0.0
        assert set(suspicions.values()) == {0.0}
