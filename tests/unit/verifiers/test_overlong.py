import numpy as np
import pytest

from trainer.advantages.overlong import overlong_punishment
from verifiers.overlong import Overlong, punishment
from verifiers.records import ScoreRequest


@pytest.mark.parametrize(
    ("length", "value"), [(0, 0.0), (60, 0.0), (61, -0.025), (80, -0.5), (100, -1.0), (101, -1.0), (1000, -1.0)]
)
def test_known_values_of_dapo_equation_13(length: int, value: float) -> None:
    assert punishment(length, 100, 40) == pytest.approx(value)


def test_it_is_the_trainers_equation() -> None:
    lengths = np.arange(130)
    ours = [punishment(int(length), 100, 40) for length in lengths]
    assert np.allclose(ours, overlong_punishment(lengths, 100, 40))


def test_a_long_right_answer_is_right_and_costs() -> None:
    verifier = Overlong(verifier={"name": "math"}, maximum=10, cache=5)
    short = verifier.score(ScoreRequest("", "#### 72", "72"))
    long = verifier.score(ScoreRequest("", "word " * 20 + "#### 72", "72"))
    assert (short.reward, short.status, short.parts["overlong"]) == (1.0, "correct", 0.0)
    assert (long.reward, long.status, long.parts["overlong"]) == (0.0, "correct", -1.0)


def test_the_cache_fits_into_the_limit() -> None:
    with pytest.raises(ValueError, match="cache must be between 1 and 10, got 11"):
        Overlong(maximum=10, cache=11)
