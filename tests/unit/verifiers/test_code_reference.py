import json
from typing import Any

import pytest

from verifiers.code_reference import Assertions, Calls, Outputs, read


def test_the_three_forms_are_read() -> None:
    calls = {"entry": "add", "cases": [[[2, 3], 5], [[[1], "x"], {"a": None}]], "tolerance": 1e-6}
    assert read(json.dumps(calls)) == Calls("add", [([2, 3], 5), ([[1], "x"], {"a": None})], "", 1e-6)
    tests = {"entry": "Stack", "tests": "assert Stack()", "helpers": "import math"}
    assert read(json.dumps(tests)) == Assertions("Stack", "assert Stack()", "import math")
    assert read(json.dumps(tests | {"names": ["Node"]})) == Assertions(
        "Stack", "assert Stack()", "import math", ("Node",)
    )
    literal = {"entry": "f", "cases": "[([2], {1: {2}}), ([(3,)], b'x')]"}
    assert read(json.dumps(literal)) == Calls("f", [([2], {1: {2}}), ([(3,)], b"x")])
    assert read('{"cases": [{"input": "1", "output": "2"}]}') == Outputs([("1", "2")])


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("assert add(2, 3) == 5", "it is no JSON"),
        ("[1]", "no JSON object"),
        ({"entry": "add"}, "either 'cases' or 'tests'"),
        ({"entry": "add", "cases": [[[1], 2]], "tests": "assert 1"}, "either 'cases' or 'tests'"),
        ({"entry": "add", "cases": []}, "at least one case"),
        ({"entry": "add", "cases": [[1, 2]]}, r"\[\[arguments…\], result\], got \[1, 2\]"),
        ({"entry": "add", "cases": [[[1]]]}, "got"),
        ({"entry": "a b", "tests": "assert 1"}, "'entry' names what the tests call, got 'a b'"),
        ({"entry": "a-b", "cases": [[[1], 2]]}, "'entry' names a function, got 'a-b'"),
        ({"tests": "assert 1"}, "got ''"),
        ({"cases": [[[1], 2]]}, "'input' and 'output' texts"),
        ({"cases": [{"input": 1, "output": "2"}]}, "'input' and 'output' texts"),
        ({"entry": "f", "cases": [[[1], 2]], "tolerance": -1}, "from 0 to below 1, not -1"),
        ({"entry": "f", "cases": [[[1], 2]], "tolerance": True}, "not True"),
        ({"entry": "f", "case": [[[1], 2]]}, r"unknown fields \['case'\]"),
        ({"entry": "f", "cases": "f(1)"}, "as a text is a Python literal"),
        ({"entry": "f", "cases": "[([...], 1)]"}, "holds builtin values"),
        ({"entry": "f", "tests": "assert f(1)", "names": "Node"}, "'names' is a list of names, not 'Node'"),
        ({"inputs": ["1"], "outputs": []}, "lists of the same length"),
        ({"inputs": ["1"], "outputs": ["2"], "entry": "f"}, r"unknown fields \['entry'\]"),
        ({"inputs": ["1 2"], "outputs": ["2"], "fn_name": "f"}, "texts hold JSON"),
        ({"inputs": [5], "outputs": ["2"]}, "'input' and 'output' texts"),
        ({"entry": 5, "tests": "assert 1"}, "are texts"),
    ],
)
def test_a_malformed_reference_is_refused_with_what_it_should_look_like(reference: Any, said: str) -> None:
    text = reference if isinstance(reference, str) else json.dumps(reference)
    with pytest.raises(ValueError, match=said) as refused:
        read(text)
    assert "a code reference looks like" in str(refused.value)


@pytest.mark.parametrize(
    ("row", "read_as"),
    [
        ({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}, Outputs([("1 2\n", "3\n"), ("3 4\n", "7\n")])),
        ({"inputs": [["1", "2"]], "outputs": [["3"]], "tolerance": 0.1}, Outputs([("1\n2", "3")], 0.1)),
        ({"fn_name": "f", "inputs": [[1, [2]], [3, []]], "outputs": [3, 4]}, Calls("f", [([1, [2]], 3), ([3, []], 4)])),
        ({"fn_name": "f", "inputs": [[1], [2]], "outputs": [[[1]], ["x"]]}, Calls("f", [([1], [1]), ([2], "x")])),
        ({"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1, 2], [3]]}, Calls("f", [([1], [1, 2]), ([2], [3])])),
        ({"fn_name": "f", "inputs": ["[1, 2]\n3"], "outputs": ["5"]}, Calls("f", [([[1, 2], 3], 5)])),
    ],
)
def test_rows_of_apps_taco_and_prime_are_read(row: dict[str, Any], read_as: Any) -> None:
    assert read(json.dumps(row)) == read_as
