"""What a verifier is. Plug-ins implement this; nothing else of this package needs to be known to them."""

from typing import Protocol, runtime_checkable

from verifiers.records import ScoreRequest, Verdict


class Verifier(Protocol):
    """Judges answers. Stateless: the same request always gets the same verdict, in any process, in any order.

    It runs in a process of its own that is killed when an answer takes too long, so it needs no time-outs. It may
    raise: that becomes a verdict with status `error`, never a reward of 0. Attributes that it may have: `timeout_s`,
    how long an answer may take unless the recipe says so; `slow_s`, after how long one gives its place to another;
    `isolation`, the tier in which it runs code of the model.
    """

    name: str
    """Stands in every verdict."""
    version: str
    """Grows whenever a verdict could change."""

    def score(self, request: ScoreRequest) -> Verdict:
        """The verdict on one answer."""
        ...


_DEFAULT_TIMEOUT_S = 5.0
_DEFAULT_SLOW_S = 0.25  # honest answers take milliseconds, few of them a second


def slow_of(verifier: Verifier) -> float:
    """Seconds after which an answer gives its place away: the verifier's own `slow_s`, or a quarter of one."""
    return float(getattr(verifier, "slow_s", _DEFAULT_SLOW_S))


def timeout_of(verifier: Verifier) -> float:
    """Seconds that one answer may take: the verifier's own `timeout_s`, or 5 where it says nothing."""
    return float(getattr(verifier, "timeout_s", _DEFAULT_TIMEOUT_S))


@runtime_checkable
class Prepared(Protocol):
    """A verifier with something slow to load, such as a large library. No answer's time is charged for it."""

    def prepare(self) -> None:
        """Load it; called once per process, before the first answer."""
        ...


@runtime_checkable
class Opened(Protocol):
    """A verifier with something that every scoring process needs for itself, such as a sandbox."""

    def open(self) -> object:
        """Make it ready; called once per scoring process, before its first answer, whose time it does not count to."""
        ...
