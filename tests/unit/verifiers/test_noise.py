import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.noise import NoiseCorrected, backward, forward
from verifiers.records import ScoreRequest

RATES = st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)).filter(lambda rates: sum(rates) < 0.95)


def mean(correct: bool, rho0: float, rho1: float, reward) -> float:
    """The expectation of a corrected reward over the verifier's errors."""
    accepted = 1 - rho1 if correct else rho0
    return accepted * reward(True) + (1 - accepted) * reward(False)


@given(RATES)
def test_backward_is_unbiased(rates: tuple[float, float]) -> None:
    rho0, rho1 = rates
    for correct in (True, False):
        assert mean(correct, rho0, rho1, lambda seen: backward(seen, rho0, rho1)) == pytest.approx(
            float(correct), abs=1e-9
        )


@given(RATES)
def test_forward_has_the_mean_that_its_docstring_says(rates: tuple[float, float]) -> None:
    rho0, rho1 = rates
    for correct in (True, False):
        expected = (1 - rho0 - rho1) * (correct - 1)
        assert mean(correct, rho0, rho1, lambda seen: forward(seen, rho1)) == pytest.approx(expected, abs=1e-9)


def test_gradients_of_a_softmax_policy_are_the_clean_one_and_parallel_to_it() -> None:
    """REINFORCE without a baseline over five answers, two of them right; 400,000 samples through a noisy verifier."""
    draw, rho0, rho1 = np.random.default_rng(0), 0.2, 0.3
    policy = np.exp(np.array([0.5, -0.3, 0.0, 0.8, -1.0]))
    policy /= policy.sum()
    right = np.array([0, 1, 0, 0, 1])
    scores = np.eye(5) - policy  # gradient of log-probability of answer i with respect to the logits
    clean = (policy * right) @ scores
    answers = draw.choice(5, size=400_000, p=policy)
    accepted = draw.random(answers.size) < np.where(right[answers], 1 - rho1, rho0)
    for reward, expected in (
        ({seen: backward(seen, rho0, rho1) for seen in (True, False)}, clean),
        ({seen: forward(seen, rho1) for seen in (True, False)}, (1 - rho0 - rho1) * clean),
        ({True: 1.0, False: 0.0}, None),
    ):
        weights = np.where(accepted, reward[True], reward[False])
        gradient = np.bincount(answers, weights, 5) @ scores / answers.size
        if expected is not None:
            assert np.allclose(gradient, expected, atol=0.005)
        else:
            assert not np.allclose(gradient, clean, atol=0.02)  # uncorrected it is not


def test_the_reward_is_corrected_and_what_was_seen_is_kept() -> None:
    verifier = NoiseCorrected(verifier="exact", false_positive=0.1, false_negative=0.4)
    good, bad = (verifier.score(ScoreRequest("", text, "yes")) for text in ("yes", "no"))
    assert (good.reward, good.status, good.parts) == (pytest.approx(1.8), "correct", {"observed": 1.0})
    assert (bad.reward, bad.status, bad.parts) == (pytest.approx(-0.2), "wrong", {"observed": 0.0})
    other = NoiseCorrected(verifier="exact", false_negative=0.25, correction="forward")
    assert [other.score(ScoreRequest("", text, "yes")).reward for text in ("yes", "no")] == [0.25, -0.75]


def test_a_verifier_that_says_nothing_cannot_be_corrected() -> None:
    with pytest.raises(ValueError, match=r"below 1, got 0\.5 \+ 0\.5"):
        NoiseCorrected(false_positive=0.5, false_negative=0.5)
