"""Finds a verifier by name: a built-in, or a user's own as `package.module:name`. Imports only what is asked for."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from verifiers.plugin import by_path
from verifiers.protocol import Verifier

BUILT_IN = {
    "choice": "verifiers.choice:Choice",
    "code": "verifiers.code_answer:CodeAnswer",
    "combine": "verifiers.combine:Combine",
    "countdown": "verifiers.countdown:Countdown",
    "exact": "verifiers.exact:Exact",
    "format": "verifiers.tag_format:TagFormat",
    "ifeval": "verifiers.ifeval:IfEval",
    "json_schema": "verifiers.json_schema:JsonSchema",
    "judge": "verifiers.judge:Judge",
    "language": "verifiers.language:Language",
    "length": "verifiers.length:Length",
    "math": "verifiers.math_answer:MathAnswer",
    "noise": "verifiers.noise:NoiseCorrected",
    "numeric": "verifiers.numeric:Numeric",
    "overlong": "verifiers.overlong:Overlong",
    "reasoning_gym": "verifiers.reasoning_gym_task:ReasoningGymTask",
    "regex": "verifiers.regex_match:Regex",
    "step_rewards": "verifiers.step_rewards:StepRewards",
}
USER_FUNCTIONS = {
    "openrlhf": "verifiers.user_openrlhf:OpenRlhfReward",
    "trl": "verifiers.user_trl:TrlReward",
    "verl": "verifiers.user_verl:VerlReward",
}
"""Adapters for functions written for other systems, named as `trl:package.module:function`."""


def load(name: str, options: Mapping[str, Any] | None = None) -> Verifier:
    """The verifier called `name`, made with `options`.

    A plug-in is an object with `name`, `version` and `score`, or a class that makes one from options by name.

    Raises:
        UnknownName: When the name is no built-in and no import path, or the module or the name in it is missing.
        TypeError: When what is found there is no verifier.
        ValueError: When it has no such option, or refuses an option's value.
    """
    kind, _, path = name.partition(":")
    if kind in USER_FUNCTIONS:
        verifier = _made(name, by_path(USER_FUNCTIONS[kind], "adapter", ()), {"path": path, **(options or {})})
    else:
        found = by_path(BUILT_IN.get(name, name), "verifier", BUILT_IN)
        if options and not isinstance(found, type):
            raise ValueError(
                f"{name!r} is an object and takes no options, got {', '.join(options)}; name its class instead"
            )
        verifier = _made(name, found, options or {}) if isinstance(found, type) else found
    missing = [part for part in ("name", "version", "score") if not hasattr(verifier, part)]
    if missing:
        raise TypeError(f"a verifier has name, version and score, but {name!r} lacks {', '.join(missing)}")
    return verifier  # type: ignore[no-any-return]


def _made(name: str, kind: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """An object of the class, or a sentence about the option that it does not have."""
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        known = ", ".join(p for p in inspect.signature(kind).parameters if p != "path") or "none"
        raise ValueError(f"verifier {name!r}: {error}; its options are: {known}") from error
    return kind(**options)
