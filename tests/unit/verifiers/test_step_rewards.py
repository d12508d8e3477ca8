from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.records import ScoreRequest
from verifiers.step_rewards import StepRewards, clip, delta

STEPS = st.lists(st.floats(0, 1), max_size=30)
PLUGIN = """
from verifiers.records import Verdict

class Steps:
    name, version = "steps", "3"
    def score(self, request):
        steps = tuple(map(float, request.response.split()))
        return Verdict(1.0, "correct", "steps", "3", steps=steps) if steps else Verdict(None, "error", "steps", "3")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "step_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    return "step_plugin:Steps"


def test_known_values() -> None:
    assert clip([0.9, 0.25, 0.5], 0.5) == (0.0, -0.25, 0.0)
    assert delta([0.75, 0.5, 0.25, 1.0]) == (0.25, 0.25, 0.25, 0.0)
    assert (delta([]), delta([0.5]), delta([0.5, 1.0])) == ((), (0.0,), (0.5, 0.0))


@given(STEPS)
def test_after_delta_the_return_of_a_step_is_its_own_reward_however_many_follow(steps: list[float]) -> None:
    changed = delta(steps)
    assert len(changed) == len(steps)
    for first in range(len(steps) - 1):
        assert sum(changed[first:]) == pytest.approx(steps[first])


@given(STEPS, st.floats(0, 1))
def test_after_clip_more_steps_never_pay(steps: list[float], eta: float) -> None:
    assert max(clip(steps, eta), default=0.0) <= 0.0
    assert sum(clip([*steps, 1.0], eta)) == sum(clip(steps, eta))


def test_the_steps_of_another_verifier_are_reshaped_and_its_outcome_stays(plugin: str) -> None:
    request = ScoreRequest("", "0.75 0.5 0.25 1.0", "")
    kept = StepRewards(verifier=plugin, delta=True).score(request)
    assert (kept.reward, kept.status, kept.steps) == (1.0, "correct", (0.25, 0.25, 0.25, 0.0))
    assert (kept.verifier, kept.version) == ("step_rewards", "1[steps 3]")
    added = StepRewards(verifier=plugin, delta=True, weight=0.5).score(request)
    assert added.reward == 1.0 + 0.5 * 0.75
    both = StepRewards(verifier=plugin, clip=0.5, delta=True).score(request)
    assert both.steps == (0.0, 0.25, -0.25, 0.0)


def test_without_a_verdict_there_are_no_steps(plugin: str) -> None:
    verdict = StepRewards(verifier=plugin, delta=True).score(ScoreRequest("", "", ""))
    assert (verdict.reward, verdict.status) == (None, "error")


def test_doing_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="set clip"):
        StepRewards()
