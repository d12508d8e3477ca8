"""What goes into a verifier and what comes out. Imported by everyone, imports nobody."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

VerdictStatus = Literal["correct", "wrong", "timeout", "error"]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One answer to score.

    Example: `ScoreRequest(prompt="2+2?", response="#### 4", reference="4")`
    """

    prompt: str
    """The problem as the model saw it, decoded."""
    response: str
    """The model's answer, decoded, without special tokens."""
    reference: str
    """What the answer is held against; its meaning belongs to the verifier."""
    truncated: bool = False
    """True when the answer ran into the length limit."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """The problem's further columns, as JSON has them, e.g. `{"data_source": "openai/gsm8k"}`."""
    verifier: str = ""
    """Which verifier is to judge; empty: the one that the pool was made for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one answer.

    A fault of the machinery is never a wrong answer: with status `timeout` or `error` there is no reward,
    and the rollout is counted but not trained.

    Example: `Verdict(reward=1.0, status="correct", verifier="math", version="1")`
    """

    reward: float | None
    """The scalar reward; None exactly when status is `timeout` or `error`."""
    status: VerdictStatus
    verifier: str
    """Name of the verifier that spoke."""
    version: str
    """Version of that verifier: verdicts of different versions are never mixed silently."""
    parts: dict[str, float] = field(default_factory=dict)
    """Named components of the reward, e.g. `{"format": 1.0, "answer": 0.0}`."""
    feedback: str = ""
    """Text for people (or for a later prompt): why it is wrong, or what broke."""
    answer: str = ""
    """The final answer as the verifier read it: answers that read alike vote together (maj@k). Empty when it has no
    reading of its own; then the tokens of the response tell answers apart."""
    expected: str = ""
    """What the answer was held against, as the verifier read it."""
    rule: str = ""
    """What decided, e.g. `number` or `sympy`."""
    milliseconds: float = 0.0
    """Time that it took; the process that ran the verifier fills it in."""
    steps: tuple[float, ...] = ()
    """Rewards of the answer's steps in order, where the verifier gives them."""
    isolation: str = ""
    """How far code of the model was shut in when it ran, a tier of `verifiers.sandbox`; empty when none ran."""
    facts: dict[str, float] = field(default_factory=dict)
    """What was counted on the way and is no part of the reward, e.g. `{"denied_syscalls": 1.0}`; metrics sum it up."""

    def __post_init__(self) -> None:
        if (self.reward is None) != (self.status in ("timeout", "error")):
            raise ValueError(
                f"a verdict has a reward exactly when it was scored, got reward={self.reward} with status "
                f"{self.status!r}; use reward=None for timeout and error"
            )

    @property
    def scored(self) -> bool:
        """True when the answer was judged at all."""
        return self.reward is not None
