"""The records that travel between the actors: one type per stage of a rollout's life.

Arrays are numpy, with shapes in the field notes: L tokens of an answer, P tokens of a prompt, N tokens of a
batch, S sequences of a batch. Token ids go in and token ids come out; sampled tokens are never re-encoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from verifiers.records import Verdict

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

FinishReason = Literal["stop", "length", "abort"]
Purpose = Literal["train", "eval"]
RolloutStatus = Literal["finished", "truncated", "failed"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem."""

    id: str
    """Unique within the run's data."""
    text: str
    """The problem as the verifier sees it."""
    token_ids: tuple[int, ...]
    """[P] what the engine is given: chat template applied, special tokens included."""
    reference: str
    """The verifier's side of the problem (answer, tests, target…)."""
    source: str = ""
    """Where it came from, e.g. `train.jsonl:17`; evaluation reports one line per `tag`, not per source."""
    tag: str = ""
    """The held-out set that evaluation reports it in, e.g. `4 numbers`."""
    verifier: str = ""
    """Which verifier judges answers to it; empty: the run's."""
    extras: str = ""
    """Its further columns, for the verifier, as a JSON object; empty when there are none."""


class GroupKey(NamedTuple):
    """Identity of a group: a sample is a group and an index."""

    purpose: Purpose
    epoch: int
    """Pass over the training prompts of its source, or number of the evaluation."""
    prompt_id: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn."""

    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0
    """Seed of the run; each sample derives its own from its identity (`rollout.seeds`)."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer asked of an engine."""

    id: str
    """Unique among requests in flight; used to abort."""
    prompt_ids: IntArray
    """[P] or [P + done]: a continued answer carries its own tokens here."""
    max_new_tokens: int
    temperature: float
    seed: int
    stop_ids: tuple[int, ...] = ()
    """Token ids that end the answer, besides the tokenizer's own."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run of sampled tokens as an engine hands them out."""

    token_ids: IntArray
    """[L] sampled tokens, the stop token included."""
    logprobs: FloatArray
    """[L] log-probability of each under the distribution it was sampled from (temperature applied)."""
    versions: IntArray
    """[L] policy version number that sampled each."""
    finish_reason: FinishReason | None
    """None while the answer goes on."""

    def __post_init__(self) -> None:
        sizes = {len(self.token_ids), len(self.logprobs), len(self.versions)}
        if len(sizes) != 1:
            raise ValueError(
                f"a segment has one log-prob and one version per token, got {len(self.token_ids)} tokens, "
                f"{len(self.logprobs)} log-probs, {len(self.versions)} versions"
            )

    def __len__(self) -> int:
        return len(self.token_ids)

    def since(self, offset: int) -> "Segment":
        """[L - offset] what follows the first `offset` tokens."""
        return Segment(self.token_ids[offset:], self.logprobs[offset:], self.versions[offset:], self.finish_reason)

    def until(self, offset: int) -> "Segment":
        """[offset] the first `offset` tokens, of an answer that goes on."""
        return Segment(self.token_ids[:offset], self.logprobs[:offset], self.versions[:offset], None)

    @classmethod
    def empty(cls) -> "Segment":
        """No tokens yet."""
        return cls(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int32), None)

    @classmethod
    def of(
        cls, token_ids: Sequence[int], logprobs: Sequence[float], versions: Sequence[int], reason: FinishReason | None
    ) -> "Segment":
        """From plain lists, as engines give them."""
        return cls(np.array(token_ids, np.int32), np.array(logprobs, np.float32), np.array(versions, np.int32), reason)

    @classmethod
    def concatenate(cls, pieces: Sequence["Segment"]) -> "Segment":
        """Pieces of one answer in order; the last decides how it ends."""
        if not pieces:
            return cls.empty()
        return cls(
            np.concatenate([piece.token_ids for piece in pieces]),
            np.concatenate([piece.logprobs for piece in pieces]),
            np.concatenate([piece.versions for piece in pieces]),
            pieces[-1].finish_reason,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What became known of one call of one sample: tokens, and the verdict once there is one.

    A sample makes one call per `generate` of its workflow; `call` is the key that the workflow gave it.
    """

    sample_index: int
    call: str
    offset: int
    """Tokens of this call that were known before."""
    segment: Segment
    """[L] the tokens that follow; finish reason None while the call goes on."""
    verdict: Verdict | None = None

    @property
    def end(self) -> int:
        """Tokens of this call that are known with this piece."""
        return self.offset + len(self.segment)


@dataclass(frozen=True, slots=True, eq=False)
class GroupProgress:
    """A worker's report on one group that it has on lease; without pieces it only says that it works on it."""

    key: GroupKey
    attempt: int
    """The lease's; a report under an earlier lease is refused."""
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One finished answer with its verdict."""

    prompt_id: str
    sample_index: int
    """Which of the group's siblings, from 0."""
    prompt_ids: IntArray
    """[P]"""
    response: Segment
    """[L] segments joined."""
    loss_mask: BoolArray
    """[L] True on tokens the policy chose; tool output and injected text are False."""
    verdict: Verdict
    status: RolloutStatus
    """`truncated` = ran into the length limit; `failed` = no verdict, see `verdict.feedback`."""

    @property
    def trainable(self) -> bool:
        """True when a verdict exists; failures are counted, never trained."""
        return self.verdict.scored


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """The siblings of one prompt."""

    key: GroupKey
    prompt: Prompt
    rollouts: tuple[Rollout, ...]

    @property
    def version_span(self) -> tuple[int, int]:
        """(oldest, newest) policy version among the sampled tokens; (-1, -1) without tokens."""
        present = [r.response.versions for r in self.rollouts if len(r.response)]
        return (min(int(v.min()) for v in present), max(int(v.max()) for v in present)) if present else (-1, -1)

    @property
    def tokens(self) -> int:
        """Tokens of all its answers."""
        return sum(len(r.response) for r in self.rollouts)

    @property
    def rewards(self) -> FloatArray:
        """[G'] rewards of the trainable siblings."""
        return np.array([r.verdict.reward for r in self.rollouts if r.trainable], np.float32)


@dataclass(frozen=True, slots=True)
class Lease:
    """Work handed to a rollout worker: one group to generate and score."""

    key: GroupKey
    prompt: Prompt
    num_samples: int
    sampling: Sampling
    attempt: int = 0
    """How often this group was leased before; never part of a seed."""
    pieces: tuple[Piece, ...] = ()
    """What earlier leases left behind, to be continued: one piece per (sample, call), each from offset 0."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatch:
    """Sequences of one optimizer step, laid end to end (no padding): prompt then response, per sequence."""

    token_ids: IntArray
    """[N]"""
    loss_mask: BoolArray
    """[N] True on the tokens whose log-prob is trained; never the first token of a sequence."""
    behaviour_logprobs: FloatArray
    """[N] log-probs of the weights that sampled; 0 off the mask, and everywhere in supervised batches."""
    versions: IntArray
    """[N] version that sampled each token; -1 off the mask."""
    lengths: IntArray
    """[S] tokens per sequence; sums to N."""
    rewards: FloatArray
    """[S]"""
    group_ids: IntArray
    """[S] siblings share an id."""
    version: int = -1
    """Version of the weights that the step starts from; -1 in supervised batches."""

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.lengths)

    @property
    def num_loss_tokens(self) -> int:
        """Tokens on the mask: the loss denominator, global over ranks and micro-batches."""
        return int(self.loss_mask.sum())

    @property
    def starts(self) -> IntArray:
        """[S] offset of each sequence's first token."""
        return (np.cumsum(self.lengths) - self.lengths).astype(np.int32)


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """What the controller knows of a batch: numbers, no tokens."""

    groups: tuple[GroupKey, ...]
    num_sequences: int
    num_tokens: int
    num_loss_tokens: int
    metrics: dict[str, float] = field(default_factory=dict)
    """reward, correct_frac, truncated_frac, response_len, staleness_mean, staleness_max…"""
    recorded: int = 0
    """Steps, this one included, that were trained before and are trained again after a restart; 0 for a new one."""
    ends: str = ""
    """Why the phase ends with this step, where that is on record already."""
    isolation: tuple[str, ...] = ()
    """Tiers of the sandbox in which code of its answers ran; empty where none did."""


@dataclass(frozen=True, slots=True)
class EvalCounts:
    """What became of one held-out problem's answers; all that evaluation needs to know of them."""

    prompt_id: str
    tag: str
    """The held-out set that the problem is in, e.g. `4 numbers`; empty for none."""
    attempts: int
    """Answers generated."""
    correct: int
    failed: int
    """Answers without a verdict (timeout, error): neither correct nor wrong."""
    truncated: int
    """Answers that ran into the length limit."""
    tokens: int
    """Sampled tokens of all attempts together."""
    votes: tuple[int, ...] = ()
    """How many of the answers with a verdict gave each distinct final answer, most frequent first."""
    right: tuple[int, ...] = ()
    """How many of these were judged correct, in the same order: all of them or none, unless the verifier judges more
    than the final answer."""
    nats: float = 0.0
    """Sum of -log p over the sampled tokens, under the distribution that they were sampled from."""

    @property
    def scored(self) -> int:
        """Answers with a verdict: n of pass@k."""
        return self.attempts - self.failed
