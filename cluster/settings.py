"""From YAML files, environment and command line to a `RunConfig`; later wins.

All three are read into the same shape, dotted key → (value, where it was said), so that one set of messages
serves them all. Every problem is collected before anything is refused; pydantic's own messages are never shown.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cluster.config import RunConfig, flatten, unflatten, walk
from cluster.rules import broken_rules
from rollout.dataset_files import HUB

ENV_PREFIX = "RLOOP_"


class Refused(ValueError):
    """Input that must be changed before anything starts: every problem with its remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Setting:
    """One value as somebody said it."""

    value: Any
    origin: str
    """A file, an environment variable, or `command line`."""


def load(recipe: Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> RunConfig:
    """The run that a recipe, the environment and overrides describe.

    `overrides` are `section.key=value`, or further YAML files laid over the recipe. In a Ray job it joins that cluster.

    Raises:
        Refused: Naming every unknown key, wrong value and broken rule.
    """
    overlays = [text for text in overrides if "=" not in text and text.endswith((".yaml", ".yml"))]
    assignments = [text for text in overrides if text not in overlays]
    settings: dict[str, Setting] = {"cluster.name": Setting(run_name(recipe), str(recipe))}
    settings |= read_assignments(in_cluster(environ or {}))
    problems: list[str] = []
    for read in (
        *(partial(read_yaml, path) for path in (recipe, *map(Path, overlays))),
        partial(read_environment, environ or {}),
        partial(read_assignments, assignments),
    ):
        try:
            settings |= read()
        except Refused as refused:
            problems += refused.problems
    problems += unknown_keys(settings)
    try:
        config = _build({key: _absolute(key, s) for key, s in settings.items() if key in _KEYS})
    except Refused as refused:
        raise Refused([*problems, *refused.problems]) from None
    if problems := problems or broken_rules(config):
        raise Refused(problems)
    return config


def in_cluster(environ: Mapping[str, str]) -> list[str]:
    """The override that joins the cluster in which this process runs, as Ray tells its jobs; an own setting wins."""
    return ["cluster.ray_address=auto"] if environ.get("RAY_ADDRESS") else []


def run_name(recipe: Path) -> str:
    """A run is called after its recipe: `recipes/gsm8k.yaml` → `gsm8k`."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", recipe.stem).lstrip(".-_") or "run"


def _build(settings: Mapping[str, Setting]) -> RunConfig:
    """Check every value by itself."""
    try:
        return RunConfig.model_validate(unflatten({key: s.value for key, s in settings.items()}))
    except ValidationError as error:
        raise Refused([_sentence(dict(e), settings) for e in error.errors() if not _beside(e["loc"])]) from None


def _absolute(key: str, setting: Setting) -> Setting:
    """Inputs are named from the current directory; the resolved run says where they were."""

    def absolute(value: Any) -> Any:
        """A path, or a mapping that has one; names of the hub stay."""
        if isinstance(value, dict) and "path" in value:
            return value | {"path": absolute(value["path"])}
        if not isinstance(value, str) or value.startswith(HUB):
            return value
        return str(Path(value).expanduser().absolute())

    value = setting.value
    if key in ("data.path", "data.eval_path", "model.path"):
        return Setting(absolute(value), setting.origin)
    if key == "data.eval_sets" and isinstance(value, dict):
        return Setting({name: absolute(path) for name, path in value.items()}, setting.origin)
    if key == "data.sources" and isinstance(value, list):
        return Setting([absolute(one) if isinstance(one, dict) else one for one in value], setting.origin)
    return setting


# -- sources ---------------------------------------------------------------------------------------------------


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice (plain YAML keeps the last one silently)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for i, (key, (key_node, _)) in enumerate(zip(keys, node.value, strict=True)):
            if key in keys[:i]:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is written twice", problem_mark=key_node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Setting]:
    """Settings of a recipe or an overlay."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise Refused(
            [f"{path}: cannot be read ({error.strerror}); name a YAML recipe, e.g. recipes/demo.yaml"]
        ) from None
    except UnicodeDecodeError as error:
        raise Refused([f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise Refused([f"{where}: not valid YAML: {getattr(error, 'problem', error)}"]) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise Refused([f"{path}: must hold sections (model:, data:, rollout: …), got {type(tree).__name__}"])
    return {key: Setting(value, str(path)) for key, value in flatten(tree).items() if not _empty_section(key, value)}


def read_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    """Settings in variables like `RLOOP_ROLLOUT__GROUP_SIZE`; variables without `__` are not settings."""
    names = sorted(name for name in environ if name.startswith(ENV_PREFIX) and "__" in name)
    return {
        name.removeprefix(ENV_PREFIX).lower().replace("__", "."): Setting(_scalar(environ[name], name), name)
        for name in names
    }


def read_assignments(assignments: Sequence[str]) -> dict[str, Setting]:
    """Settings of the command line: `section.key=value`, the value read as YAML."""
    settings = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise Refused(
                [f"command line: {text!r} is not an override; write section.key=value or name a .yaml overlay"]
            )
        settings[key.strip()] = Setting(_scalar(value, f"command line: {key}"), "command line")
    return settings


def _scalar(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.YAMLError:
        raise Refused([f"{where}: {text!r} is not a YAML value; quote it, e.g. '\"{text}\"'"]) from None


# -- messages --------------------------------------------------------------------------------------------------

_KEYS = {key: field for key, field, section in walk() if not section}
_SECTIONS = {key for key, _, section in walk() if section}


def _empty_section(key: str, value: Any) -> bool:
    return value is None and key in _SECTIONS


def unknown_keys(settings: Mapping[str, Setting]) -> list[str]:
    """A sentence per key that no section has, with the nearest one that exists."""
    problems = []
    for key, setting in settings.items():
        if key in _KEYS:
            continue
        if key in _SECTIONS:
            problems.append(f"{setting.origin}: {key} is a section; set its keys, e.g. {_first_key(key)}")
            continue
        near = nearest(key)
        hint = f"did you mean {near}?" if near else "`rloop config fields` lists all keys"
        problems.append(f"{setting.origin}: {key}: no such key; {hint}")
    return problems


def nearest(key: str) -> str | None:
    """The valid key most like `key`: same last part elsewhere first, then by spelling."""
    leaf = key.rpartition(".")[2]
    same_leaf = [known for known in _KEYS if known.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(key, same_leaf or _KEYS, n=1, cutoff=0.0 if same_leaf else 0.6)
    if not close and (leaves := difflib.get_close_matches(leaf, [k.rpartition(".")[2] for k in _KEYS], n=1)):
        close = [known for known in _KEYS if known.endswith("." + leaves[0])]
    return close[0] if close else None


def _first_key(section: str) -> str:
    return next(key for key in _KEYS if key.startswith(section + "."))


_RULES = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be one of {expected}",
    "int_from_float": "must be a whole number",
    "extra_forbidden": "is no such key; see docs/data.md for those that a set has",
    "missing": "must be there",
    "string_pattern_mismatch": "may hold letters, digits, dot, dash and underscore only",
}
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "dict": "names with values, {name: value}",
    "string": "text",
    "path": "a path",
    "model": "a mapping with a path, {path: FILE}",
}


def _beside(loc: tuple[int | str, ...]) -> bool:
    """Where a path or a mapping will do, pydantic says of a mapping also that it is no path."""
    return any(str(part).startswith("lax-or-strict") for part in loc)


def _sentence(error: dict[str, Any], settings: Mapping[str, Setting]) -> str:
    """A pydantic error as rule, value and way out."""
    parts = [str(part) for part in error["loc"]]
    depth = next(n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in _KEYS)
    key = ".".join(parts[:depth])
    inside = [part for part in error["loc"][depth:] if part != "SetConfig"]
    place = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inside)
    origin = settings[key].origin if key in settings else "default"
    rule = _RULES.get(error["type"], "").format(**error.get("ctx", {}))
    if not rule:
        rule = "must be " + _TYPES.get(error["type"].partition("_")[0], f"valid ({error['msg']})")
    return f"{origin}: {place} {rule}, got {error['input']!r}; default: {show(default_of(_KEYS[key]))}"


def default_of(field: FieldInfo) -> Any:
    """The default of a field that is not a section."""
    return field.get_default(call_default_factory=True)


def show(value: Any) -> str:
    """A value as one would write it in a recipe."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()
