"""What a verifier is. Plug-ins implement this; nothing else of this package needs to be known to them."""

from typing import Protocol, runtime_checkable

from verifiers.records import ScoreRequest, Verdict


class Verifier(Protocol):
    """Judges answers. Stateless: the same request always gets the same verdict, in any process, in any order.

    It runs in a process of its own that is killed when an answer takes too long, so it needs no time-outs. It
    may raise: that becomes a verdict with status `error`, never a reward of 0.
    """

    name: str
    """Stands in every verdict."""
    version: str
    """Grows whenever a verdict could change."""

    def score(self, request: ScoreRequest) -> Verdict:
        """The verdict on one answer."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """A verifier with something slow to load, such as a large library. No answer's time is charged for it."""

    def prepare(self) -> None:
        """Load it; called once per process, before the first answer."""
        ...
