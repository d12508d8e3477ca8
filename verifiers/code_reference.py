"""The reference of a code problem: what is called with what, what is printed for what, or tests in a text.

JSON, in one of these forms:
`{"entry": "add", "cases": [[[2, 3], 5], …]}`: arguments and result of each call; where JSON has no word for them (sets,
keys that are no text), `cases` is a text with the same as a Python literal, such as `"[[[2], {1, 2}]]"`;
`{"entry": "add", "tests": "assert add(2, 3) == 5\\n…"}`: also with a `check(candidate)` as in HumanEval, or `test_…()`;
`{"cases": [{"input": "2 3\\n", "output": "5\\n"}, …]}`: standard input and output of a whole program;
`{"inputs": […], "outputs": […]}`, with or without `"fn_name"`: the rows of APPS, TACO and PRIME.
Optional with cases: `"tolerance": 1e-6`, how far floats may be off (absolutely, or relatively to the larger). With an
entry: `"helpers": "import math\\n…"`, code that runs before the program and, once more and out of its reach, before
the tests. With tests: `"names": ["Node"]`, what the program defines besides the entry and the tests may use.
"""

import ast
import json
from dataclasses import dataclass
from typing import Any

from verifiers.sandbox import values

_FIELDS = {"entry", "cases", "tests", "helpers", "names", "tolerance"}
_FIELDS_OF_APPS = {"inputs", "outputs", "fn_name", "tolerance"}


@dataclass(frozen=True, slots=True)
class Calls:
    """A function is called with each case's arguments, and its results are compared."""

    entry: str
    """Name of the function in the program."""
    cases: list[tuple[list[Any], Any]]
    """Arguments and expected result of each call."""
    helpers: str = ""
    """Code that runs before the program."""
    tolerance: float = 0.0
    """How far floats may be off."""


@dataclass(frozen=True, slots=True)
class Assertions:
    """Code that calls the program and asserts."""

    entry: str
    """Name of what the tests call."""
    tests: str
    """Python code."""
    helpers: str = ""
    """Code that runs before the program and before the tests."""
    names: tuple[str, ...] = ()
    """What else of the program the tests may use."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """A whole program reads its input and prints its output."""

    cases: list[tuple[str, str]]
    """Standard input and expected standard output of each run."""
    tolerance: float = 0.0
    """How far printed numbers may be off."""


Reference = Calls | Assertions | Outputs


def read(reference: str) -> Reference:
    """The reference in its form. Raises ValueError saying what it should look like."""
    try:
        fields = json.loads(reference)
    except ValueError as error:
        raise _malformed(f"it is no JSON ({error})", reference) from None
    if not isinstance(fields, dict):
        raise _malformed("it is no JSON object", reference)
    if "inputs" in fields and "outputs" in fields:
        fields = _of_apps(fields, reference)
    unknown = fields.keys() - _FIELDS
    if unknown:
        raise _malformed(f"it has unknown fields {sorted(unknown)}", reference)
    entry, helpers, tests = (fields.get(name, "") for name in ("entry", "helpers", "tests"))
    names = fields.get("names", [])
    tolerance, cases = fields.get("tolerance", 0.0), fields.get("cases")
    if not isinstance(tolerance, (int, float)) or isinstance(tolerance, bool) or not 0 <= tolerance < 1:
        raise _malformed(f"tolerance is a number from 0 to below 1, not {tolerance!r}", reference)
    if not all(isinstance(text, str) for text in (entry, helpers, tests)):
        raise _malformed("entry, tests and helpers are texts", reference)
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise _malformed(f"'names' is a list of names, not {names!r:.60}", reference)
    if bool(tests) == (cases is not None):
        raise _malformed("it needs either 'cases' or 'tests'", reference)
    if tests:
        if not entry.isidentifier():
            raise _malformed(f"'entry' names what the tests call, got {entry!r}", reference)
        return Assertions(entry, tests, helpers, tuple(names))
    if isinstance(cases, str):
        cases = _literal(cases, reference)
    if not isinstance(cases, list) or not cases:
        raise _malformed("'cases' is a list with at least one case", reference)
    if not entry:
        return Outputs([_texts(case, reference) for case in cases], float(tolerance))
    if not entry.isidentifier():
        raise _malformed(f"'entry' names a function, got {entry!r}", reference)
    return Calls(entry, [_call(case, reference) for case in cases], helpers, float(tolerance))


def _of_apps(fields: dict[str, Any], reference: str) -> dict[str, Any]:
    """A row of APPS, TACO or PRIME in our form.

    Standard input and output may be lists of lines. With `fn_name`, an input is a list of arguments, or a text with one
    in JSON per line, and an output a result, or a text with one in JSON where the input is a text. APPS wraps each
    result in a list of its own: where all outputs are lists of one, that one is the result.
    """
    unknown, inputs, outputs = fields.keys() - _FIELDS_OF_APPS, fields["inputs"], fields["outputs"]
    if unknown:
        raise _malformed(f"it has unknown fields {sorted(unknown)}", reference)
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise _malformed("'inputs' and 'outputs' are lists of the same length", reference)
    entry, pairs = fields.get("fn_name"), list(zip(inputs, outputs, strict=True))
    tolerance = {"tolerance": fields["tolerance"]} if "tolerance" in fields else {}
    if not entry:
        return {"cases": [{"input": _lines(i), "output": _lines(o)} for i, o in pairs]} | tolerance
    try:
        pairs = [
            ([json.loads(line) for line in i.splitlines()], json.loads(o)) if isinstance(i, str) else (i, o)
            for i, o in pairs
        ]
    except (ValueError, TypeError) as error:
        raise _malformed(f"inputs and outputs that are texts hold JSON ({error})", reference) from None
    if all(isinstance(o, list) and len(o) == 1 for _, o in pairs):
        pairs = [(i, o[0]) for i, o in pairs]
    return {"entry": entry, "cases": [[i, o] for i, o in pairs]} | tolerance


def _lines(text: Any) -> Any:
    return "\n".join(text) if isinstance(text, list) and all(isinstance(line, str) for line in text) else text


def _literal(cases: str, reference: str) -> Any:
    try:
        return ast.literal_eval(cases)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise _malformed(f"'cases' as a text is a Python literal ({error})", reference) from None


def _call(case: Any, reference: str) -> tuple[list[Any], Any]:
    if not isinstance(case, list | tuple) or len(case) != 2 or not isinstance(case[0], list | tuple):
        raise _malformed(f"a case with an entry is [[arguments…], result], got {str(case)[:60]}", reference)
    try:
        values.encode(list(case))
    except values.Untransportable as error:
        raise _malformed(f"a case holds builtin values ({error})", reference) from None
    return list(case[0]), case[1]


def _texts(case: Any, reference: str) -> tuple[str, str]:
    if not isinstance(case, dict) or not all(isinstance(case.get(name), str) for name in ("input", "output")):
        raise _malformed(f"a case without an entry has 'input' and 'output' texts, got {str(case)[:60]}", reference)
    return case["input"], case["output"]


def _malformed(why: str, reference: str) -> ValueError:
    return ValueError(
        f"a code reference looks like "
        '{"entry": "add", "cases": [[[2, 3], 5]]}, {"entry": "add", "tests": "assert …"} or '
        f'{{"cases": [{{"input": "…", "output": "…"}}]}}: {why}, in {reference[:80]!r}'
    )
