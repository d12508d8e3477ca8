import json
import re

import pytest

from verifiers.json_schema import JsonSchema
from verifiers.records import ScoreRequest

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def verdict(response: str, schema=PERSON, **options):
    return JsonSchema(**options).score(ScoreRequest("", response, json.dumps(schema)))


@pytest.mark.parametrize(
    "response", ['{"name": "Ada", "age": 36}', '```json\n{"name": "Ada", "age": 36}\n```', ' {"age":0,"name":""} ']
)
def test_a_value_that_fits_is_correct(response: str) -> None:
    assert verdict(response).reward == 1.0


@pytest.mark.parametrize(
    ("response", "why"),
    [
        ('{"name": "Ada"}', r"\$: 'age' is a required property"),
        ('{"name": "Ada", "age": -1}', r"\$\.age: -1 is less than"),
        ('{"name": "Ada", "age": 1, "age": 2}', "twice"),
        ('{"name": "Ada", "age": NaN}', "NaN is not JSON"),
        ('Here it is: {"name": "Ada", "age": 36}', "no JSON"),
        ('{"name": "Ada", "age": 36} {"name": "Ada", "age": 36}', "no JSON"),
        ("", "no JSON"),
        ("[" * 100_000, "no JSON: nested too deep"),
        ('{"name": "Ada", "age": ' + "9" * 5000 + "}", "no JSON"),
    ],
)
def test_what_does_not_fit_is_wrong_and_says_why(response: str, why: str) -> None:
    found = verdict(response)
    assert (found.reward, found.status) == (0.0, "wrong")

    assert re.search(why, found.feedback)


def test_a_fence_may_be_forbidden() -> None:
    assert verdict('```json\n{"name": "Ada", "age": 36}\n```', fenced=False).reward == 0.0


def test_one_schema_may_serve_all_rows() -> None:
    every = JsonSchema(schema={"type": "array"})
    assert every.score(ScoreRequest("", "[1]", "no schema")).reward == 1.0


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not a JSON schema"):
        JsonSchema(schema={"type": "nothing"})
    with pytest.raises(ValueError, match="no JSON schema"):
        JsonSchema().score(ScoreRequest("", "[1]", "{"))


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("date", "2024-02-29", "2023-02-29"),
        ("date-time", "2024-02-29T23:59:60.5+01:00", "2023-02-29T00:00:00Z"),
        ("date-time", "1985-04-12t23:20:50z", "1985-04-12 23:20:50"),
        ("date-time", "1985-04-12T23:20:50.52Z", "1985-04-12T24:20:50Z"),
        ("email", "ada@example.org", "ada"),
        ("ipv4", "192.0.2.1", "192.0.2.256"),
        ("ipv6", "2001:db8::1", "2001:db8:::1"),
        ("uuid", "2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2eb8aa08aa9811eab4aa73b441d16380"),
    ],
)
def test_formats_are_checked(kind: str, good: str, bad: str) -> None:
    schema = {"type": ["string", "integer"], "format": kind}
    assert verdict(json.dumps(good), schema).status == "correct"
    assert verdict("7", schema).status == "correct"  # a format is said of texts alone
    found = verdict(json.dumps(bad), schema)
    assert (found.status, found.feedback) == ("wrong", f"$: {bad!r} is not a {kind!r}")


def test_a_format_that_needs_another_package_is_a_remark() -> None:
    assert verdict('"no address"', {"format": "uri"}).status == "correct"


def test_nothing_is_fetched_for_a_schema() -> None:
    with pytest.raises(Exception, match=r"Unresolvable|unresolvable"):
        verdict("1", {"$ref": "http://127.0.0.1:9/schema.json"})
