"""What a worker knows of the answers of one lease: what came with it, what it added, and what it still has to report.

This is what makes workflows durable: a call that is known to its end is replayed from here, one that is known in
part goes on from its last token.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from rollout.records import Piece, Segment
from verifiers.records import Verdict


@dataclass(slots=True)
class _Call:
    answer: Segment
    verdict: Verdict | None
    reported: int = 0
    """Tokens that the buffer has."""
    told: bool = False
    """True when the buffer has all there is to say."""


class AnswerLog:
    """Calls of the samples of one group, by (sample, key of the call)."""

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self._calls = {
            (p.sample_index, p.call): _Call(p.segment, p.verdict, reported=len(p.segment), told=True) for p in pieces
        }
        self.newest = -1
        """Newest version among the tokens that were sampled here."""

    def answer(self, sample_index: int, call: str) -> Segment:
        """[L] what is known of the answer; a finish reason says that it is whole."""
        known = self._calls.get((sample_index, call))
        return known.answer if known else Segment.empty()

    def verdict(self, sample_index: int, call: str) -> Verdict | None:
        """The verdict on it, once there is one. A fault of the verifier is none: it is asked again."""
        known = self._calls.get((sample_index, call))
        return known.verdict if known and known.verdict and known.verdict.scored else None

    def add(self, sample_index: int, call: str, piece: Segment) -> None:
        """More of an answer, sampled here. One that an engine cut off (`abort`) is not whole: it can be continued."""
        if piece.finish_reason == "abort":
            piece = replace(piece, finish_reason=None)
        if len(piece):
            self.newest = max(self.newest, int(piece.versions.max()))
        known = self._calls.setdefault((sample_index, call), _Call(Segment.empty(), None))
        known.answer, known.told = Segment.concatenate([known.answer, piece]), False

    def judge(self, sample_index: int, call: str, verdict: Verdict) -> None:
        """The verdict on an answer; on one that was cut off it says nothing, for that may go on."""
        known = self._calls[sample_index, call]
        if known.answer.finish_reason is not None:
            known.verdict, known.told = verdict, False

    def news(self, newest: int) -> tuple[Piece, ...]:
        """What the buffer does not have, as far as it was sampled by versions up to `newest`.

        Ask again until `acknowledge` says that the buffer has it.
        """
        pieces = []
        for (sample, name), call in self._calls.items():
            if call.told:
                continue
            fresh, verdict = call.answer.since(call.reported), call.verdict
            too_new = np.flatnonzero(fresh.versions > newest)
            if len(too_new):
                fresh, verdict = fresh.until(int(too_new[0])), None
                if not len(fresh):
                    continue
            pieces.append(Piece(sample, name, call.reported, fresh, verdict))
        return tuple(pieces)

    def acknowledge(self, pieces: Iterable[Piece]) -> None:
        """The buffer has these."""
        for piece in pieces:
            call = self._calls[piece.sample_index, piece.call]
            call.reported = piece.end
            call.told = (
                piece.end == len(call.answer)
                and piece.segment.finish_reason == call.answer.finish_reason
                and piece.verdict is call.verdict
            )
