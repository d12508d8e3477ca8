"""Runs in the jail: loads a program and answers calls into it. What it says is a claim, never a verdict.

The program shares this interpreter and can change all of it, this file included; so the trusted side takes nothing
from here but values, and believes none of them.

Asked: `{"program", "helpers", "entry"}` once, then `{"op", "on", "name"?, "args"?, "kwargs"?}`. Answers:
`{"value"}`, or `{"raised": [name of the nearest builtin exception, its text]}`.
"""

import builtins
import itertools
import sys
import types
from typing import Any

from verifiers.sandbox import channel, values

_MAX_HANDLES = 10_000
_MAX_ITERATED = 100_000
_MAX_TEXT = 300


def main() -> None:
    """Answer until the trusted side hangs up."""
    task = channel.receive()
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    kept: list[Any] = []
    try:
        for source, name in ((task["helpers"], "<helpers>"), (task["program"], "<program>")):
            exec(compile(source, name, "exec"), module.__dict__)
        answer: dict[str, Any] = {"value": True}
        if task["entry"] not in module.__dict__ and hasattr(module.__dict__.get("Solution"), task["entry"]):
            setattr(module, task["entry"], _method(module.__dict__["Solution"], task["entry"]))
        if task["entry"] not in module.__dict__:
            answer = {"raised": ["NameError", f"the program defines no {task['entry']!r}"]}
    except BaseException as error:
        answer = _raised(error)
    channel.send(answer)
    while True:
        try:
            question = channel.receive()
        except EOFError:
            return
        try:
            answer = {"value": values.encode(_perform(question, module, kept), _keeper(kept))}
            channel.send(answer)
        except BaseException as error:
            channel.send(_raised(error))


def _method(kind: Any, name: str) -> Any:
    """A function of a method, as the exercises of LeetCode have it: each call has an object of its own."""
    return lambda *args, **kwargs: getattr(kind(), name)(*args, **kwargs)


def _perform(question: dict[str, Any], module: types.ModuleType, kept: list[Any]) -> Any:
    """What a question asks for."""
    on = question["on"]
    target = module.__dict__[on] if isinstance(on, str) else kept[on]
    match question["op"]:
        case "global":
            return target
        case "call":
            args, kwargs = (values.decode(question[part], kept.__getitem__) for part in ("args", "kwargs"))
            return target(*args, **kwargs)
        case "attribute":
            return getattr(target, question["name"])
        case "item":
            return target[values.decode(question["args"], kept.__getitem__)]
        case "length":
            return len(target)
        case "list":
            return list(itertools.islice(target, _MAX_ITERATED))


def _keeper(kept: list[Any]) -> Any:
    def keep(thing: Any) -> int:
        if len(kept) >= _MAX_HANDLES:
            raise values.Untransportable(f"more than {_MAX_HANDLES} objects")
        kept.append(thing)
        return len(kept) - 1

    return keep


def _raised(error: BaseException) -> dict[str, Any]:
    known = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
    try:
        text = str(error)[:_MAX_TEXT]
    except Exception:
        text = ""
    return {"raised": [known[0], text], "called": type(error).__name__}
