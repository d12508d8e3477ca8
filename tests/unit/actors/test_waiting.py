import asyncio

import pytest

from actors.waiting import DeadlineExceeded, within


def test_a_missed_deadline_says_who_waited_for_what_and_how_long():
    with pytest.raises(DeadlineExceeded, match=r"version 3 waits for worker-0: no answer in 0\.01 s"):
        asyncio.run(within(0.01, asyncio.sleep(5), "version 3 waits for worker-0"))


def test_a_time_out_of_the_work_itself_is_not_mistaken_for_the_deadline():
    async def work():
        raise TimeoutError("2 of 4 groups ready")

    with pytest.raises(TimeoutError, match="2 of 4 groups ready") as caught:
        asyncio.run(within(5, work(), "x"))
    assert not isinstance(caught.value, DeadlineExceeded)
