"""Which verifier, made how, and what it may take."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class VerifierSpec:
    """One verifier as a pool runs it. Equal specs share their processes.

    Example: `VerifierSpec("code", '{"partial": true}', timeout_s=20.0)`
    """

    name: str
    """Built-in, or `package.module:name`."""
    options: str = "{}"
    """Keyword arguments of its class, as a JSON object."""
    timeout_s: float | None = None
    """Seconds one answer may take, from when a process begins with it; None: what the verifier says it needs."""
    concurrency: int = 128
    """Answers of it under way at once, slow ones included."""
    environment: tuple[str, ...] = ()
    """Names of the environment variables that its processes see; all others are cleared."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The options, parsed."""
        return json.loads(self.options)  # type: ignore[no-any-return]
