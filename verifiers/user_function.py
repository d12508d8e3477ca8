"""What the adapters for reward functions of TRL, OpenRLHF and verl have in common."""

import asyncio
import functools
import hashlib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from verifiers.options import real
from verifiers.plugin import by_path
from verifiers.records import Verdict, VerdictStatus

NO_OPINION = "no opinion"
"""Rule of a verdict whose function declined to judge: status `error`, and `combine` leaves the part out."""


class UserFunction:
    """A function found by its import path, sync or async, as a verifier.

    It sees one answer at a time, so a function that compares the answers of a batch does not work here. Its scalar
    makes the status: `correct` above `threshold`.
    """

    name: str
    version: str
    _hint = ""  # what to do when the function wants other arguments

    def __init__(self, kind: str, path: str, threshold: float = 0.5) -> None:
        """Find the function.

        Args:
            kind: Whose convention it follows, e.g. `trl`.
            path: `package.module:function`.
            threshold: A reward above it is a correct answer.
        """
        self._function: Callable[..., Any] = by_path(path, f"{kind} reward function", ())
        if not callable(self._function):
            raise TypeError(f"{path!r} is a {type(self._function).__name__}, not a function; name the function itself")
        self._threshold = real("threshold", threshold)
        self.name = f"{kind}:{path}"
        self.version = f"1+{_digest(path)}"

    def call(self, *positional: Any, **named: Any) -> Any:
        """What the function returns, awaited where it is async. It gets the named arguments that it can take."""
        signature = inspect.signature(self._function)
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        taken = {n: v for n, v in named.items() if n in signature.parameters or inspect.Parameter.VAR_KEYWORD in kinds}
        try:
            bound = signature.bind(*positional, **taken)
        except TypeError as error:
            offered = f"; by name it could get {', '.join(sorted(named))}" if named else ""
            raise TypeError(f"{self.name} wants something else than it gets: {error}{offered}{self._hint}") from error
        result = self._function(*bound.args, **bound.kwargs)
        return _loop().run(_awaited(result)) if inspect.isawaitable(result) else result

    def verdict(
        self, reward: float, decides: float | None = None, parts: Mapping[str, Any] | None = None, **more: Any
    ) -> Verdict:
        """The verdict for a reward; `decides` replaces it where the function says apart what is correct."""
        correct = (reward if decides is None else decides) > self._threshold
        numbers = {key: scalar(value) for key, value in (parts or {}).items() if _is_scalar(value)}
        status: VerdictStatus = "correct" if correct else "wrong"
        return Verdict(reward, status, self.name, self.version, numbers, rule="user function", **more)

    def no_opinion(self) -> Verdict:
        """The verdict of a function that declined: there is no reward, and none is made up."""
        why = f"{self.name} has no opinion on this answer (it returned None)"
        facts = {"no_opinion": 1.0}
        return Verdict(None, "error", self.name, self.version, feedback=why, rule=NO_OPINION, facts=facts)


def scalar(value: Any) -> float:
    """A number from a number, a bool or anything with one element, such as a tensor of any library."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a reward is one finite number, got {value!r:.120}")
    return float(value)


def first(values: Any, what: str) -> Any:
    """The one entry of a list of one (or of a tensor): the batch has one answer."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        values = [values]
    if len(values) != 1:
        raise ValueError(f"{what} must have one entry per answer: 1 was asked about, {len(values)} came back")
    return values[0]


def _is_scalar(value: Any) -> bool:
    try:
        scalar(value)
    except (TypeError, ValueError):
        return False
    return True


@functools.cache
def _loop() -> asyncio.Runner:
    """One event loop for the life of the process: what an async function keeps, such as a client, belongs to it."""
    return asyncio.Runner()


async def _awaited(result: Any) -> Any:
    return await result


def _digest(path: str) -> str:
    """Eight digits that change with the file in which the function stands."""
    source = getattr(importlib.import_module(path.partition(":")[0]), "__file__", None)
    return hashlib.sha256(Path(source).read_bytes() if source else path.encode()).hexdigest()[:8]
