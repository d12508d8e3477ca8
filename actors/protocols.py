"""What each actor may be asked by the others. The plain classes fit these as they are; Ray clients are cast to them.

A `Batch` stays opaque to the controller: on Ray it is a reference that goes from buffer to learner, and the tokens
never pass through the controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actors.records import BufferStatus
    from rollout.experts import ExpertReport
    from rollout.records import BatchInfo, EvalCounts, FloatArray, GroupKey, IntArray, Lease, RolloutGroup
    from rollout.weights import WeightLayout, WeightSlot
    from trainer.config import OptimConfig
    from verifiers.records import ScoreRequest, Verdict

Batch: TypeAlias = Any
Objective = Literal["rl", "sft"]


class Buffer(Protocol):
    """The rollout buffer: see `actors.buffer.RolloutBuffer` for what each call promises."""

    async def begin_rl(self, iteration: int, steps: int, version: int, done_steps: int = 0) -> None: ...  # noqa: D102
    async def begin_sft(  # noqa: D102
        self, dataset: str, batch_size: int, epochs: float, seed: int, done_steps: int = 0
    ) -> int: ...
    async def begin_eval(self, number: int, samples: int, temperature: float, limit: int | None) -> None: ...  # noqa: D102
    async def end_phase(self) -> None: ...  # noqa: D102
    async def lease(self, worker: str, max_groups: int, wait_s: float) -> list[Lease]: ...  # noqa: D102
    async def renew(self, worker: str, keys: Sequence[GroupKey]) -> list[GroupKey]: ...  # noqa: D102
    async def finish(self, worker: str, group: RolloutGroup) -> bool: ...  # noqa: D102
    async def give_back(self, worker: str, keys: Sequence[GroupKey]) -> None: ...  # noqa: D102
    async def worker_lost(self, worker: str) -> None: ...  # noqa: D102
    async def new_version(self, version: int) -> None: ...  # noqa: D102
    async def next_batch(self, timeout_s: float) -> tuple[BatchInfo, Batch]: ...  # noqa: D102
    async def trained(self, keys: Sequence[GroupKey], version: int) -> None: ...  # noqa: D102
    async def eval_result(self, timeout_s: float) -> list[EvalCounts]: ...  # noqa: D102
    async def select_experts(  # noqa: D102
        self, iteration: int, tau_hard: float, max_per_prompt: int, out: str
    ) -> ExpertReport: ...
    async def status(self) -> BufferStatus: ...  # noqa: D102


class Verifiers(Protocol):
    """The verifier pool."""

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Verdict]: ...  # noqa: D102


class Worker(Protocol):
    """A rollout worker, as the broadcaster sees it."""

    async def load_weights(self, slot: WeightSlot) -> int: ...  # noqa: D102
    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]: ...  # noqa: D102
    async def retire(self, reason: str) -> None: ...  # noqa: D102


class Learner(Protocol):
    """The learner group, as the controller sees it."""

    async def begin_phase(self, weights: str | None, optim: OptimConfig, total_steps: int) -> str: ...  # noqa: D102
    async def resume(self, directory: str, optim: OptimConfig, total_steps: int) -> str: ...  # noqa: D102
    async def step(self, batch: Batch, objective: Objective) -> dict[str, float]: ...  # noqa: D102
    async def layout(self) -> WeightLayout: ...  # noqa: D102
    async def stage(self, slot: WeightSlot) -> None: ...  # noqa: D102
    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]: ...  # noqa: D102
    async def weights_hash(self) -> str: ...  # noqa: D102
    async def save(self, directory: str, optimizer: bool) -> None: ...  # noqa: D102
    async def export(self, directory: str) -> None: ...  # noqa: D102


class Broadcaster(Protocol):
    """The weight broadcaster."""

    async def claim(self, layout: WeightLayout, version: int) -> WeightSlot: ...  # noqa: D102
    async def publish(self, slot: WeightSlot, expected: Sequence[FloatArray]) -> dict[str, float]: ...  # noqa: D102
    async def probe_sequences(self) -> list[IntArray]: ...  # noqa: D102
