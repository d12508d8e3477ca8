"""The `json_schema` verifier: the response is one JSON value that fits a schema."""

import json
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from verifiers.options import flag, text
from verifiers.records import ScoreRequest, Verdict, VerdictStatus
from verifiers.visible import visible

_FORMATS = ("date", "email", "ipv4", "ipv6", "uuid")  # what jsonschema checks in every installation
_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.A | re.I)
_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL | re.IGNORECASE)


class JsonSchema:
    """The whole response is JSON, bare or in one fenced block, and valid under the schema.

    JSON as the standard has it: no NaN, no comments, no key twice. References to schemas elsewhere are not followed.
    Of `format`, date, date-time, email, ipv4, ipv6 and uuid are checked; any other is a remark, as in the standard.
    """

    name = "json_schema"
    version = "2"

    def __init__(self, schema: Mapping[str, Any] | None = None, fenced: bool = True, after: str = "") -> None:
        """Options.

        Args:
            schema: One schema for all rows; without it every reference is a schema as JSON text.
            fenced: A fenced block around the value is allowed.
            after: Only what follows the last occurrence of this counts, e.g. `</think>`.
        """
        if schema is not None and not isinstance(schema, Mapping):
            raise ValueError(f"schema is a mapping, got {schema!r}; leave it out when the references are schemas")
        self._validator = None if schema is None else _validator(dict(schema))
        self._fenced = flag("fenced", fenced)
        self._after = text("after", after)

    def prepare(self) -> None:
        """Import jsonschema."""
        _validator({})

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 when it fits, else 0; part `json` tells whether it is JSON at all."""
        validator = self._validator or _validator(_schema(request.reference))
        response = visible(request.response, self._after)
        fenced = _FENCED.fullmatch(response) if self._fenced else None
        try:
            value = read_json(fenced[1] if fenced else response)
        except ValueError as error:
            return self._verdict(f"no JSON: {error}", {"json": 0.0})
        try:
            fault = next(validator.iter_errors(value), None)
        except RecursionError:
            return self._verdict("nested too deep to be checked", {"json": 1.0})
        wrong = "" if fault is None else f"{fault.json_path}: {fault.message[:200]}"
        return self._verdict(wrong, {"json": 1.0})

    def _verdict(self, wrong: str, parts: dict[str, float]) -> Verdict:
        status: VerdictStatus = "wrong" if wrong else "correct"
        return Verdict(float(not wrong), status, self.name, self.version, parts, feedback=wrong, rule="schema")


def read_json(words: str) -> Any:
    """The one JSON value of a text. Raises ValueError for anything that the standard does not allow."""
    try:
        return json.loads(words, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _schema(reference: str) -> Any:
    try:
        return read_json(reference)
    except ValueError as error:
        raise ValueError(f"the reference is no JSON schema: {reference[:80]!r}: {error}") from error


def _is_date_time(value: object) -> bool:
    """As RFC 3339 writes it. Raises ValueError for a day that there is not."""
    if not isinstance(value, str):
        return True
    found = _DATE_TIME.fullmatch(value)
    return bool(found and date.fromisoformat(found[1]))


def _validator(schema: Any) -> Any:
    """A validator for a schema that is itself valid."""
    try:
        from jsonschema import FormatChecker, exceptions, validators
        from referencing import Registry
    except ModuleNotFoundError as error:
        raise ValueError("json_schema needs the package jsonschema; pip install jsonschema") from error
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except exceptions.SchemaError as error:
        raise ValueError(f"not a JSON schema: {error.message[:200]}") from error
    formats = FormatChecker(_FORMATS)
    formats.checks("date-time", raises=ValueError)(_is_date_time)
    return kind(schema, registry=Registry(), format_checker=formats)  # an empty registry: nothing is fetched
