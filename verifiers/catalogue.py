"""Finds a verifier by name: a built-in, or a user's own as `package.module:name`. Imports only what is asked for."""

import difflib
import importlib

from verifiers.protocol import Verifier

BUILT_IN = {
    "countdown": "verifiers.countdown:Countdown",
    "exact": "verifiers.exact:Exact",
    "math": "verifiers.math_answer:MathAnswer",
}


class UnknownVerifier(ValueError):
    """No verifier has this name."""


def load(name: str) -> Verifier:
    """The verifier called `name`.

    A plug-in is an object with `name`, `version` and `score`, or a class that makes one without arguments.

    Raises:
        UnknownVerifier: When the name is no built-in and no import path, or the module or the name in it is missing.
        TypeError: When what is found there is no verifier.
    """
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not attribute:
        near = difflib.get_close_matches(name, BUILT_IN, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"built-in are {', '.join(BUILT_IN)};"
        raise UnknownVerifier(f"no verifier is called {name!r}; {hint} Your own is named 'package.module:name'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UnknownVerifier(f"verifier {name!r} cannot be imported: {error}; is its package installed?") from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, vars(module), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownVerifier(f"module {module_name!r} has no {attribute!r}{hint}")
    found = getattr(module, attribute)
    verifier = found() if isinstance(found, type) else found
    missing = [part for part in ("name", "version", "score") if not hasattr(verifier, part)]
    if missing:
        raise TypeError(f"a verifier has name, version and score, but {name!r} lacks {', '.join(missing)}")
    return verifier  # type: ignore[no-any-return]
