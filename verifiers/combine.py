"""The `combine` verifier: a weighted sum of verifiers, some of which must be satisfied first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verifiers.nested import Nested
from verifiers.options import flag, real, text
from verifiers.records import ScoreRequest, Verdict, VerdictStatus
from verifiers.user_function import NO_OPINION

_FIELDS = ("name", "options", "weight", "gate", "label")


@dataclass(frozen=True, slots=True)
class Part:
    """One verifier of a sum."""

    verifier: Nested
    weight: float
    """Factor of its reward; negative where its `correct` is a fault."""
    gate: bool
    """Whether it must be correct for there to be any reward."""
    label: str
    """Its name among the parts of the verdict."""


class Combine:
    """reward = sum of weight x reward over the parts, or 0 when a gate is not correct. Weights are taken as written.

    The answer is correct when all gates are and the reward is above `threshold`. Gates are asked first, and after one
    that fails nobody else: a judge costs nothing on answers of the wrong form. A part with status timeout or error
    makes the whole verdict that. A user function without opinion (TRL's None) is left out, as TRL does, unless
    no part has one.
    """

    name = "combine"

    def __init__(self, parts: Sequence[Mapping[str, Any]] = (), threshold: float = 0.5) -> None:
        """Options.

        Args:
            parts: Mappings with `name`, and perhaps `options`, `weight` (1), `gate` (false) and `label` (the name).
            threshold: A reward above it is a correct answer.
        """
        if isinstance(parts, str | Mapping) or not parts:
            raise ValueError(f"parts is a list of verifiers, e.g. [{{name: math, weight: 0.9}}], got {parts!r:.80}")
        self._parts = [_part(f"parts[{index}]", given) for index, given in enumerate(parts)]
        labels = [part.label for part in self._parts]
        if len(set(labels)) < len(labels):
            raise ValueError(f"parts need different labels, got {', '.join(labels)}; give one a `label` of its own")
        self._threshold = real("threshold", threshold)
        terms = (f"{part.weight:g} {part.verifier}{' as a gate' if part.gate else ''}" for part in self._parts)
        self.version = f"1[{', '.join(terms)}]"
        self.timeout_s = sum(part.verifier.timeout_s for part in self._parts)  # one after the other
        self.slow_s = max(part.verifier.slow_s for part in self._parts)

    def prepare(self) -> None:
        """Prepare all parts."""
        for part in self._parts:
            part.verifier.prepare()

    def open(self) -> None:
        """Make ready what the parts need in this process."""
        for part in self._parts:
            part.verifier.open()

    @property
    def isolation(self) -> str:
        """The tier in which a part runs code of the model, if one does."""
        return next((part.verifier.isolation for part in self._parts if part.verifier.isolation), "")

    def score(self, request: ScoreRequest) -> Verdict:
        """The combined verdict; its parts are the rewards of the verifiers, and `label.part` theirs."""
        asked: dict[str, Verdict] = {}
        for part in sorted(self._parts, key=lambda part: not part.gate):
            verdict = part.verifier.score(request)
            if verdict.reward is None and verdict.rule == NO_OPINION:
                continue
            asked[part.label] = verdict
            if verdict.reward is None:
                return self._verdict(None, verdict.status, asked, f"{part.label}: {verdict.feedback}")
            if part.gate and verdict.status != "correct":
                return self._verdict(0.0, "wrong", asked, f"gate {part.label}: {verdict.feedback}")
        if not asked:
            return self._verdict(None, "error", asked, "no part has an opinion on this answer")
        reward = sum(part.weight * (asked[part.label].reward or 0.0) for part in self._parts if part.label in asked)
        wrong = [f"{label}: {verdict.feedback}" for label, verdict in asked.items() if verdict.feedback]
        status: VerdictStatus = "correct" if reward > self._threshold else "wrong"
        return self._verdict(reward, status, asked, "; ".join(wrong))

    def _verdict(
        self, reward: float | None, status: VerdictStatus, asked: Mapping[str, Verdict], feedback: str
    ) -> Verdict:
        parts: dict[str, float] = {}
        facts: dict[str, float] = {}
        for label, verdict in asked.items():
            if verdict.reward is not None:
                parts[label] = verdict.reward
            parts |= {f"{label}.{key}": value for key, value in verdict.parts.items()}
            for key, value in verdict.facts.items():
                facts[key] = facts.get(key, 0.0) + value
        told = [asked[p.label] for p in sorted(self._parts, key=lambda p: -abs(p.weight)) if p.label in asked]
        answering = next((verdict for verdict in told if verdict.answer), None)
        return Verdict(
            reward,
            status,
            self.name,
            self.version,
            parts,
            feedback,
            answer=answering.answer if answering else "",
            expected=next((verdict.expected for verdict in told if verdict.expected), ""),
            rule=" + ".join(asked),
            steps=next((verdict.steps for verdict in told if verdict.steps), ()),
            isolation=next((verdict.isolation for verdict in told if verdict.isolation), ""),
            facts=facts,
        )


def _part(option: str, given: object) -> Part:
    if not isinstance(given, Mapping) or set(given) - set(_FIELDS):
        raise ValueError(f"{option} is a mapping of {', '.join(_FIELDS)}, got {given!r:.120}")
    verifier = Nested(option, {key: given[key] for key in ("name", "options") if key in given})
    return Part(
        verifier,
        real(f"{option}.weight", given.get("weight", 1.0)),
        flag(f"{option}.gate", given.get("gate", False)),
        text(f"{option}.label", given.get("label", verifier.asked_for)),
    )
