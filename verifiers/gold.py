"""A response that must be judged correct, made from a row of data: a set is checked with it before it is trained on."""

from typing import Protocol, runtime_checkable

from verifiers.protocol import Verifier


@runtime_checkable
class AnswersItself(Protocol):
    """A verifier whose reference is an answer, so that a correct response can be made from it."""

    def gold(self, reference: str) -> str | None:
        """A response that gives just the answer in `reference`; None where there is no telling."""
        ...


def gold_response(verifier: Verifier, reference: str, given: str = "") -> str | None:
    """The response that must score as correct, or None where there is no telling.

    Args:
        verifier: Judges it.
        reference: The row's.
        given: A response that the row itself has as correct; it comes first.
    """
    if given:
        return given
    return verifier.gold(reference) if isinstance(verifier, AnswersItself) else None
