import pytest

from rollout.records import FinishReason, GroupKey, Piece, Segment
from rollout.unfinished import Unfinished
from verifiers.records import Verdict

KEY = GroupKey("train", 0, "p0")
WRONG = Verdict(0.0, "wrong", "exact", "1")
CORRECT = Verdict(1.0, "correct", "exact", "1")
BROKEN = Verdict(None, "error", "exact", "1")
LATE = Verdict(None, "timeout", "exact", "1")


def piece(offset: int, count: int, reason: FinishReason | None, verdict: Verdict | None = None) -> Piece:
    return Piece(0, "answer", offset, Segment.of([7] * count, [-0.5] * count, [0] * count, reason), verdict)


def known(*reports: Piece) -> tuple[int, FinishReason | None, Verdict | None]:
    """(tokens, finish reason, verdict) of the answer after these reports."""
    unfinished = Unfinished()
    for report in reports:
        unfinished.extend(KEY, [report])
    [joined] = unfinished.pieces(KEY)
    return joined.end, joined.segment.finish_reason, joined.verdict


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_the_verdict_on_an_answer_that_ended_by_itself_is_kept(reason):
    assert known(piece(0, 3, reason, WRONG)) == (3, reason, WRONG)
    assert known(piece(0, 3, reason), piece(3, 0, None, WRONG)) == (3, reason, WRONG)


@pytest.mark.parametrize("reason", ["abort", None])
def test_a_verdict_on_an_answer_that_was_cut_off_is_not_taken_for_the_one_that_goes_on(reason):
    cut = piece(0, 3, reason, WRONG)
    assert known(cut) == (3, None, None)
    assert known(cut, piece(3, 2, "stop")) == (5, "stop", None)
    assert known(cut, piece(3, 2, "stop", CORRECT)) == (5, "stop", CORRECT)


@pytest.mark.parametrize("verdict", [BROKEN, LATE])
def test_an_answer_that_could_not_be_scored_is_scored_again(verdict):
    assert known(piece(0, 3, "stop", verdict)) == (3, "stop", None)
    assert known(piece(0, 3, "stop", verdict), piece(3, 0, "stop", CORRECT)) == (3, "stop", CORRECT)


def test_what_was_said_before_is_no_news():
    unfinished = Unfinished()
    for report in (piece(0, 3, "abort", WRONG), piece(3, 2, "stop", BROKEN), piece(0, 5, "stop", CORRECT)):
        assert len(unfinished.extend(KEY, [report])) == 1
        assert unfinished.extend(KEY, [report]) == ()
