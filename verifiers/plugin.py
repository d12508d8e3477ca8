"""Finds what a user names: a built-in by its name, or something of theirs as `package.module:name`."""

import difflib
import importlib
from collections.abc import Collection
from typing import Any


class UnknownName(ValueError):
    """Nothing has this name."""


def by_path(path: str, kind: str, built_in: Collection[str]) -> Any:
    """What the import path `package.module:name` leads to.

    Args:
        path: As the user wrote it; perhaps a misspelt built-in.
        kind: What it should be, for messages, e.g. `verifier`.
        built_in: Names that need no path.

    Raises:
        UnknownName: When it is no import path, or the module or the name in it is missing.
    """
    module_name, _, attribute = path.partition(":")
    if not attribute:
        near = difflib.get_close_matches(path, built_in, n=1, cutoff=0.4)
        hint = f" did you mean {near[0]!r}?" if near else f" built-in are {', '.join(built_in)};" if built_in else ""
        raise UnknownName(f"no {kind} is called {path!r};{hint} Your own is named 'package.module:name'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UnknownName(f"{kind} {path!r} cannot be imported: {error}; is its package installed?") from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, vars(module), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownName(f"module {module_name!r} has no {attribute!r}{hint}")
    return getattr(module, attribute)
