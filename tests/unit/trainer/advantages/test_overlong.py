import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.advantages.overlong import overlong_punishment


def test_the_limits_of_the_paper() -> None:
    lengths = np.array([0, 16384, 18432, 19456, 20480, 30000], np.int32)
    assert overlong_punishment(lengths, 20480, 4096).tolist() == [0, 0, -0.5, -0.75, -1, -1]


@settings(max_examples=30)
@given(length=st.integers(0, 200), limit=st.integers(50, 150), cache=st.integers(1, 50))
def test_it_is_the_three_cases_of_the_equation(length: int, limit: int, cache: int) -> None:
    punishment = overlong_punishment(np.array([length], np.int32), limit, cache).item()
    if length <= limit - cache:
        assert punishment == 0
    elif length <= limit:
        assert np.isclose(punishment, ((limit - cache) - length) / cache)
    else:
        assert punishment == -1
