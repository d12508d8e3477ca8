"""A verifier as an option of another one: how combinators name what they combine."""

from collections.abc import Mapping
from typing import Any

from verifiers.catalogue import load
from verifiers.gold import gold_response
from verifiers.protocol import Opened, Prepared, Verifier, slow_of, timeout_of
from verifiers.records import ScoreRequest, Verdict


class Nested:
    """A verifier inside another, named as in a recipe: `math`, or `{name: numeric, options: {rel_tol: 0.01}}`."""

    def __init__(self, option: str, given: object) -> None:
        """Load it.

        Args:
            option: Where it stands, for messages, e.g. `parts[0]`.
            given: A name, or a mapping with `name` and perhaps `options`.
        """
        spec: Mapping[str, Any] = (
            {"name": given} if isinstance(given, str) else given if isinstance(given, Mapping) else {}
        )
        name, options = spec.get("name"), spec.get("options")
        if not isinstance(name, str) or set(spec) - {"name", "options"} or not isinstance(options or {}, Mapping):
            raise ValueError(
                f"{option} is a verifier's name or {{name: …, options: {{…}}}}, got {given!r:.120}; e.g. {option}: math"
            )
        self.asked_for = name
        self.inner: Verifier = load(name, options)
        self.timeout_s, self.slow_s = timeout_of(self.inner), slow_of(self.inner)

    def prepare(self) -> None:
        """Load what is slow to load."""
        if isinstance(self.inner, Prepared):
            self.inner.prepare()

    def open(self) -> None:
        """Make ready what this process needs for itself."""
        if isinstance(self.inner, Opened):
            self.inner.open()

    @property
    def isolation(self) -> str:
        """The tier in which it runs code of the model, if it does."""
        return str(getattr(self.inner, "isolation", ""))

    def score(self, request: ScoreRequest) -> Verdict:
        """Its verdict; what it raises names it."""
        try:
            return self.inner.score(request)
        except Exception as error:
            raise RuntimeError(f"{self.asked_for}: {type(error).__name__}: {error}") from error

    def gold(self, reference: str) -> str | None:
        """A response that it must judge correct; None where there is no telling."""
        return gold_response(self.inner, reference)

    def __str__(self) -> str:
        return f"{self.inner.name} {self.inner.version}"


class Around:
    """A verifier around another one: what is said of that one holds for both."""

    def __init__(self, verifier: object) -> None:
        """Load the other one, the option `verifier`."""
        self._verifier = Nested("verifier", verifier)
        self.timeout_s, self.slow_s = self._verifier.timeout_s, self._verifier.slow_s

    def prepare(self) -> None:
        """Prepare it."""
        self._verifier.prepare()

    def open(self) -> None:
        """Make ready what it needs in this process."""
        self._verifier.open()

    @property
    def isolation(self) -> str:
        """The tier in which it runs code of the model, if it does."""
        return self._verifier.isolation

    def gold(self, reference: str) -> str | None:
        """As it has it."""
        return self._verifier.gold(reference)
