"""Finds a verifier by name: a built-in, or a user's own as `package.module:name`. Imports only what is asked for."""

from verifiers.plugin import by_path
from verifiers.protocol import Verifier

BUILT_IN = {
    "countdown": "verifiers.countdown:Countdown",
    "exact": "verifiers.exact:Exact",
    "math": "verifiers.math_answer:MathAnswer",
}


def load(name: str) -> Verifier:
    """The verifier called `name`.

    A plug-in is an object with `name`, `version` and `score`, or a class that makes one without arguments.

    Raises:
        UnknownName: When the name is no built-in and no import path, or the module or the name in it is missing.
        TypeError: When what is found there is no verifier.
    """
    found = by_path(BUILT_IN.get(name, name), "verifier", BUILT_IN)
    verifier = found() if isinstance(found, type) else found
    missing = [part for part in ("name", "version", "score") if not hasattr(verifier, part)]
    if missing:
        raise TypeError(f"a verifier has name, version and score, but {name!r} lacks {', '.join(missing)}")
    return verifier  # type: ignore[no-any-return]
