"""Answers under way: what is known of each call of each sample of a group that is not finished.

Plain bookkeeping. Workers report tokens as they come, perhaps twice and perhaps with more than before; what is kept
only ever grows, until the group is finished or a sample starts again. An answer that its engine cut off goes on, so a
verdict on it says nothing of the answer that it will be; nor does a verdict of a verifier that failed. Neither is kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from rollout.records import GroupKey, Piece, Purpose, Segment
from verifiers.records import Verdict


@dataclass(slots=True)
class _Call:
    parts: list[Segment] = field(default_factory=list)
    length: int = 0
    verdict: Verdict | None = None

    @property
    def ended(self) -> bool:
        return bool(self.parts) and self.parts[-1].finish_reason is not None


class Unfinished:
    """Pieces per group, joined."""

    def __init__(self) -> None:
        self._groups: dict[GroupKey, dict[tuple[int, str], _Call]] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def extend(self, key: GroupKey, pieces: Iterable[Piece]) -> tuple[Piece, ...]:
        """Take pieces in; returns what of them is new.

        Raises:
            ValueError: When tokens between what is known and a piece are missing: the reporter lost some.
        """
        calls = self._groups.setdefault(key, {})
        fresh = []
        for piece in pieces:
            call = calls.setdefault((piece.sample_index, piece.call), _Call())
            if piece.offset > call.length:
                raise ValueError(
                    f"pieces of an answer follow one another, got tokens from {piece.offset} on of sample "
                    f"{piece.sample_index} of {key} ({piece.call!r}), but only {call.length} are known"
                )
            if new := _news(call, piece):
                call.parts.append(new.segment)
                call.length += len(new.segment)
                call.verdict = call.verdict or new.verdict
                fresh.append(new)
        return tuple(fresh)

    def pieces(self, key: GroupKey) -> tuple[Piece, ...]:
        """One piece per call of the group, from its first token on."""
        return tuple(
            Piece(sample, name, 0, Segment.concatenate(call.parts), call.verdict)
            for (sample, name), call in sorted(self._groups.get(key, {}).items())
        )

    def stale_samples(self, key: GroupKey, version: int, max_staleness: float) -> tuple[int, ...]:
        """Samples with a token that a step which starts from `version` may not train any more."""
        return tuple(
            sorted(
                {
                    sample
                    for (sample, _), call in self._groups.get(key, {}).items()
                    if any(len(part) and version - int(part.versions.min()) > max_staleness for part in call.parts)
                }
            )
        )

    def samples(self, key: GroupKey) -> tuple[int, ...]:
        """Samples of which something is known."""
        return tuple(sorted({sample for sample, _ in self._groups.get(key, {})}))

    def discard(self, key: GroupKey, samples: Sequence[int]) -> int:
        """Forget these samples of the group; returns how many tokens that were."""
        calls = self._groups.get(key, {})
        gone = [at for at in calls if at[0] in samples]
        tokens = sum(calls.pop(at).length for at in gone)
        if not calls:
            self._groups.pop(key, None)
        return tokens

    def drop(self, key: GroupKey) -> None:
        """Forget the group: it is finished."""
        self._groups.pop(key, None)

    def clear(self, purpose: Purpose | None = None) -> None:
        """Forget the groups of a purpose, or all."""
        for key in [key for key in self._groups if purpose in (None, key.purpose)]:
            del self._groups[key]


def _news(call: _Call, piece: Piece) -> Piece | None:
    """The part of a piece that says something new; None when there is none."""
    known = call.length - piece.offset
    segment = piece.segment.since(known)
    if segment.finish_reason == "abort":
        segment = replace(segment, finish_reason=None)
    ends = segment.finish_reason is not None and not call.ended
    scored = piece.verdict is not None and piece.verdict.scored
    judged = scored and (ends or call.ended) and call.verdict is None
    if not len(segment) and not ends and not judged:
        return None
    if not ends and not len(segment):  # only the verdict is new; how the call ended is known
        segment = Segment.empty() if not call.ended else replace(segment, finish_reason=call.parts[-1].finish_reason)
    return Piece(piece.sample_index, piece.call, call.length, segment, piece.verdict if judged else None)
