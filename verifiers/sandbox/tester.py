"""Runs in the jail: a data set's tests, against stand-ins for a program that lives in another jailed process.

Only values come back from the program, so no object of its making is ever compared: what is no builtin value is a
`Stranger`, which equals nothing. Each `assert` is counted. Nothing in this process belongs to the program; what it
says of the tests is taken as it is.

Asked: `{"tests", "helpers", "entry", "names", "all"}`. Asks back what `solver` answers. Ends with `{"done": {…}}`.
"""

import builtins
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from verifiers.sandbox import assertions, channel, values

_MAX_TEXT = 300
# A program must not end the tests' loops by raising, nor blame the tests.
_NOT_MIRRORED = (StopIteration, StopAsyncIteration, ImportError)


class ProgramFailed(Exception):
    """The program raised something that tests cannot ask for."""


class Uncrossable(TypeError):
    """The tests hand the program something that cannot cross; no program could be judged by them."""


class _Refused(BaseException):
    """Tests stop at the first check that fails."""


class Stranger:
    """Stands for an object that stays with the program. Equals nothing, not even itself."""

    _compared = 0
    """How often any of them was compared."""

    def __init__(self, on: int) -> None:
        object.__setattr__(self, "_on", on)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, over there."""
        return _ask({"op": "call", "on": self._on, "args": _cross(list(args)), "kwargs": _cross(kwargs)})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and name != "__name__":
            raise AttributeError(name)
        return _ask({"op": "attribute", "on": self._on, "name": name})

    def __getitem__(self, key: Any) -> Any:
        return _ask({"op": "item", "on": self._on, "args": _cross(key)})

    def __len__(self) -> int:
        return int(_ask({"op": "length", "on": self._on}))

    def __iter__(self) -> Any:
        return iter(_ask({"op": "list", "on": self._on}))

    def __eq__(self, other: object) -> bool:
        Stranger._compared += 1
        return False

    def __ne__(self, other: object) -> bool:
        Stranger._compared += 1
        return True

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> NoReturn:
        Stranger._compared += 1
        raise ProgramFailed("the program returned an object of its own where a truth value was needed")

    def __repr__(self) -> str:
        return "<an object of the program>"


def main() -> None:
    """Run the tests and tell how they went."""
    tally = _Tally()
    try:
        broken = _run(channel.receive(), tally)
    except (ImportError, Uncrossable) as error:
        broken = _named(error)
    done = {"passed": tally.passed, "failed": tally.failed, "checks": tally.checks, "problem": tally.first}
    channel.send({"done": {**done, "broken": broken, "strangers": Stranger._compared}})


def _run(task: dict[str, Any], tally: "_Tally") -> str:
    """Run the tests; returns why they cannot be run, if they cannot. Raises ImportError and Uncrossable for the same.

    Until they look at something of the program's, it has no part in what happens.
    """
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    module.__dict__[assertions.CHECK] = tally
    names = _World(module.__dict__)
    try:
        tests = assertions.read(task["tests"], task["helpers"], {task["entry"], *task["names"]})
        exec(compile(task["helpers"], "<helpers>", "exec"), names)
    except Exception as error:
        return _named(error)
    names.pop(task["entry"], None)  # the helpers may have a stub of it
    names.of_program = frozenset({task["entry"], *task["names"]})
    tally.checks, tally.keep_going = tests.checks, task["all"]
    for unit in _units(tests.code, names, task["entry"]):
        tally.repeated = 0
        try:
            unit()
        except _Refused:
            break
        except (ImportError, Uncrossable):
            raise
        except BaseException as error:
            if not names.looked_at:
                return _named(error)
            tally.cut_off(error)
            if not tally.keep_going:
                break
    return ""


def _units(code: types.CodeType, names: "_World", entry: str) -> Iterator[Callable[[], Any]]:
    """What is run, one after the other: the tests as they stand, `check`, and each `test_…`."""
    yield lambda: exec(code, names)
    if callable(check := dict.get(names, "check")):
        yield lambda: check(names[entry])
    for name, test in list(names.items()):
        if name != "check" and assertions.is_test(name) and isinstance(test, types.FunctionType):
            yield test


class _Tally:
    """Counts checks; a `with` block around each assert."""

    def __init__(self) -> None:
        self.keep_going = False
        """Whether to go on after a check that fails."""
        self.passed = self.failed = self.checks = 0
        self.repeated = 0
        """Checks passed, since a unit began, by asserts that may run more than once."""
        self.first = ""
        self._entering = "", False
        self._inside: list[tuple[str, bool]] = []

    def __call__(self, text: str, repeated: bool) -> "_Tally":
        self._entering = text, repeated
        return self

    def __enter__(self) -> None:
        self._inside.append(self._entering)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        text, repeated = self._inside.pop()
        if error is None:
            self.passed += 1
            self.repeated += repeated
            return False
        if isinstance(error, (_Refused, Uncrossable)) or not isinstance(error, Exception):
            return False
        self.failed += 1
        said = "" if isinstance(error, AssertionError) else f": {_named(error)}"
        self.first = self.first or f"fails: {text}{said}"[:_MAX_TEXT]
        if not self.keep_going:
            raise _Refused from None
        return True

    def cut_off(self, error: BaseException) -> None:
        """Something failed outside of the asserts, and those that would have followed are not known. How often the
        repeated ones would have run is not known either, so they earn nothing: a program shall not gain by raising."""
        self.passed -= self.repeated
        self.failed += 1
        self.first = self.first or _named(error)


class _World(dict[str, Any]):
    """The tests' global names. What they do not define is the standard library's, unless it was said to be the
    program's: one that could define what its tests use would be its own judge."""

    of_program: frozenset[str] = frozenset()
    looked_at = False
    """Whether they used one of the program's."""

    def __missing__(self, name: str) -> Any:
        if name in self.of_program:
            self.looked_at = True
            return _ask({"op": "global", "on": name})
        if name not in sys.stdlib_module_names:
            raise KeyError(name)
        self[name] = importlib.import_module(name)
        return self[name]


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_TEXT]


def _cross(value: Any) -> Any:
    """A value of the tests on its way to the program."""
    try:
        return values.encode(value, _own)
    except values.Untransportable as error:  # too deep or too large, as what the program returned can make it
        raise ProgramFailed(str(error)) from None


def _own(thing: Any) -> int:
    if type(thing) is not Stranger:
        raise Uncrossable(f"the tests pass a {type(thing).__name__}; only builtin values reach the program")
    return int(thing._on)


def _ask(question: dict[str, Any]) -> Any:
    """Put a question to the program, by way of the trusted side."""
    channel.send(question)
    answer = channel.receive()
    if "value" in answer:
        return values.decode(answer["value"], Stranger)
    name, text = answer["raised"]
    kind = getattr(builtins, name, None)
    mirrored = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _NOT_MIRRORED)
    try:
        error = kind(text) if mirrored and kind is not None else ProgramFailed(f"{name}: {text}")
    except TypeError:  # UnicodeDecodeError and its like want more than a text
        error = ProgramFailed(f"{name}: {text}")
    raise error
