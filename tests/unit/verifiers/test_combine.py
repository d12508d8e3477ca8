import gc
import os
from pathlib import Path
from typing import Any

import pytest

from verifiers.catalogue import load
from verifiers.code_answer import CodeAnswer
from verifiers.combine import Combine
from verifiers.math_answer import MathAnswer
from verifiers.protocol import Opened, Prepared, slow_of
from verifiers.records import ScoreRequest
from verifiers.sandbox.records import SandboxError

PLUGIN = """
from verifiers.records import Verdict

class Mood:
    name, version = "mood", "2"
    def score(self, request):
        if request.response == "raise":
            raise KeyError("no such thing")
        if request.response in ("timeout", "error"):
            return Verdict(None, request.response, "mood", "2", feedback="it is so")
        return Verdict(0.5, "wrong", "mood", "2", {"tone": 0.5}, "too loud", facts={"calls": 2.0}, steps=(0.5,))

def sometimes(completions, **columns):
    return [None if "prose" in completion else 1.0 for completion in completions]
"""


@pytest.fixture
def mood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mood_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    return "mood_plugin:Mood"


def request(response: str) -> ScoreRequest:
    return ScoreRequest("", response, "72")


MATH_AND_FORMAT = [
    {"name": "math", "weight": 0.9},
    {"name": "format", "weight": 0.1, "options": {"tags": ["answer"], "outside": True}},
]


@pytest.mark.parametrize(
    ("response", "reward", "status"),
    [
        ("<answer>#### 72</answer>", 1.0, "correct"),
        ("#### 72", 0.9, "correct"),
        ("<answer>#### 7</answer>", 0.1, "wrong"),
        ("#### 7", 0.0, "wrong"),
    ],
)
def test_a_weighted_sum(response: str, reward: float, status: str) -> None:
    # `#### 72</answer>` is read up to the end of its line: the tag closes on the next one
    verdict = Combine(parts=MATH_AND_FORMAT).score(request(response.replace("</answer>", "\n</answer>")))
    assert (verdict.reward, verdict.status) == (pytest.approx(reward), status)
    assert verdict.answer in ("72", "7")
    assert set(verdict.parts) == {"math", "math.answer", "math.marked", "format"}


def test_a_gate_that_fails_takes_the_reward_and_asks_nobody_else(mood: str) -> None:
    verifier = Combine(parts=[{"name": mood, "label": "mood"}, {"name": "math", "weight": 0, "gate": True}])
    passed, failed = verifier.score(request("#### 72")), verifier.score(request("#### 7"))
    assert (passed.reward, passed.facts, passed.steps) == (0.5, {"calls": 2.0}, (0.5,))
    assert (failed.reward, failed.status, failed.facts) == (0.0, "wrong", {})
    assert failed.feedback.startswith("gate math: answered '7'")


@pytest.mark.parametrize("status", ["timeout", "error"])
def test_a_part_without_a_verdict_leaves_none(mood: str, status: str) -> None:
    verdict = Combine(parts=[{"name": "math"}, {"name": mood, "label": "mood"}]).score(request(status))
    assert (verdict.reward, verdict.status, verdict.feedback) == (None, status, "mood: it is so")


def test_a_part_that_raises_is_named(mood: str) -> None:
    with pytest.raises(RuntimeError, match=r"mood_plugin:Mood: KeyError: 'no such thing'"):
        Combine(parts=[{"name": mood}]).score(request("raise"))


def test_a_user_function_without_opinion_is_left_out_unless_it_is_alone(mood: str) -> None:
    some = {"name": "trl:mood_plugin:sometimes", "weight": 2.0}
    both = Combine(parts=[{"name": "math"}, some])
    assert both.score(request("#### 72")).reward == 3.0
    assert both.score(request("prose #### 72")).reward == 1.0
    alone = Combine(parts=[some]).score(request("prose"))
    assert (alone.reward, alone.status) == (None, "error")


def test_the_version_tells_parts_weights_and_gates() -> None:
    parts = [{"name": "math", "weight": 0.5}, {"name": "format", "gate": True}]
    assert Combine(parts=parts).version == f"1[0.5 math {MathAnswer.version}, 1 format 1 as a gate]"


def test_a_sum_may_take_as_long_as_its_parts_together() -> None:
    judge = {"name": "judge", "options": {"model": "m", "deadline_s": 60.0}}
    assert Combine(parts=[{"name": "math"}, {"name": "format"}, judge]).timeout_s == MathAnswer.timeout_s + 5 + 70


def test_sums_nest_and_are_found_by_name() -> None:
    inner = {"name": "combine", "options": {"parts": MATH_AND_FORMAT}, "weight": 2}
    assert load("combine", {"parts": [inner]}).score(request("#### 72")).reward == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([], "parts is a list"),
        ({"name": "math"}, "parts is a list"),
        ([{"name": "math", "wieght": 1}], r"parts\[0\] is a mapping of name"),
        ([{"weight": 1}], r"parts\[0\] is a verifier's name"),
        ([{"name": "math"}, {"name": "math"}], "different labels"),
        ([{"name": "math", "weight": "1"}], r"parts\[0\]\.weight is a finite number, got '1'"),
        ([{"name": "mathh"}], "did you mean 'math'"),
        ([{"name": "numeric", "options": {"tolerance": 1}}], "its options are: abs_tol, rel_tol, after"),
    ],
)
def test_a_sum_at_fault_is_refused(parts, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Combine(parts=parts)


CODE = {"name": "code", "options": {"wall_s": 60}}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("combine", {"parts": [{"name": "format", "weight": 0.1}, CODE]}),
        ("overlong", {"verifier": CODE}),
        ("noise", {"verifier": CODE}),
        ("step_rewards", {"verifier": CODE, "delta": True}),
        ("overlong", {"verifier": {"name": "noise", "options": {"verifier": CODE}}}),
    ],
)
def test_what_holds_for_a_verifier_holds_for_what_is_around_it(name: str, options: dict[str, Any]) -> None:
    outer = load(name, options)
    assert (slow_of(outer), slow_of(load("math"))) == (2.0, 0.25)
    assert isinstance(outer, Opened)
    assert isinstance(outer, Prepared)
    try:
        outer.prepare()
    except SandboxError:
        pytest.skip("no sandbox works on this machine")
    assert outer.isolation in ("A", "B", "C")  # type: ignore[attr-defined]
    before = children()
    outer.open()
    assert len(children() - before) == 1  # the sandbox runs before the first answer comes
    for inner in gc.get_objects():
        if type(inner) is CodeAnswer:
            inner.close()
    assert children() == before


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
