"""The fields of a run file, for people: the table of `rloop config fields` and the comments of `rloop config show`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from cluster.config import RunConfig, walk
from cluster.settings import default_of, show


@dataclass(frozen=True, slots=True)
class FieldHelp:
    """What a person needs to know of one field."""

    key: str
    type: str
    bound: str
    """`>= 1, <= 64`, or the choices of a literal; empty when anything of the type goes."""
    default: str
    help: str


def all_fields() -> list[FieldHelp]:
    """Every field of a run file, in order."""
    return [
        FieldHelp(key, _type(field), _bound(field), show(default_of(field)), field.description or "")
        for key, field, section in walk()
        if not section
    ]


def as_table() -> str:
    """One line per field: key, type, bound, default, help."""
    rows = [(f.key, f.type, f.bound, f.default, f.help) for f in all_fields()]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]).rstrip() for row in rows
    )


def as_yaml(config: RunConfig) -> str:
    """The resolved run as a recipe that can be run again, each value with its help as a comment."""
    values, by_key = config.flat(), {f.key: f for f in all_fields()}
    lines = list(_yaml_lines(values, by_key))
    width = min(max(len(text) for text, _ in lines), 48)
    return "\n".join(f"{text.ljust(width)}  # {note}" if note else text for text, note in lines) + "\n"


def _yaml_lines(values: dict[str, object], by_key: dict[str, FieldHelp]) -> Iterator[tuple[str, str]]:
    """(YAML text, comment) per line."""
    for key, field, section in walk():
        indent, name = "  " * key.count("."), key.rpartition(".")[2]
        if section:
            yield f"{indent}{name}:", field.description or ""
            continue
        f = by_key[key]
        note = "; ".join(part for part in (f.bound, f"default {f.default}") if part)
        yield f"{indent}{name}: {show(values[key])}", f"{f.help} [{note}]"


def _type(field: FieldInfo) -> str:
    """`int`, `float`, `text`, `path`, `list of int`, `path by name`, `choice`, with `or null`."""
    name, optional = _type_name(field.annotation), type(None) in get_args(field.annotation)
    return f"{name.partition(' of ')[0]} or null" if optional else name


def _type_name(annotation: Any) -> str:
    """Of several that a value may have, the first."""
    names = {"str": "text", "Path": "path", "SourceConfig": "sets", "Any": "value", "VerifierSettings": "settings"}
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return f"{_type_name(arguments[1])} by name"
    if any(isinstance(a, str) for a in arguments):
        return "choice"
    if Ellipsis in arguments or get_origin(annotation) is list:
        return f"list of {_type_name(arguments[0])}"
    return _type_name(arguments[0]) if arguments else names.get(annotation.__name__, annotation.__name__)


def _bound(field: FieldInfo) -> str:
    if choices := [a for a in get_args(field.annotation) if isinstance(a, str)]:
        return " | ".join(choices)
    bounds = []
    for rule in field.metadata:
        match rule:
            case annotated_types.Ge(ge=bound):
                bounds.append(f">= {bound}")
            case annotated_types.Gt(gt=bound):
                bounds.append(f"> {bound}")
            case annotated_types.Le(le=bound):
                bounds.append(f"<= {bound}")
            case annotated_types.Lt(lt=bound):
                bounds.append(f"< {bound}")
    return ", ".join(bounds)
