"""The learner group: K FSDP ranks driven in lockstep. First failure wins; nobody waits for ranks that cannot answer.

Each call goes to every rank at once, because every rank takes part in the same collectives. There is one caller
(the controller), so all ranks see the same order.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from actors.protocols import Batch, Objective
from rollout.records import FloatArray, IntArray
from rollout.weights import WeightLayout, WeightSlot
from trainer.config import OptimConfig


class Rank(Protocol):
    """One learner process: `call("step", batch, "rl")` runs that method of `trainer.learner.LearnerRank` there."""

    async def call(self, method: str, *args: Any) -> Any:  # noqa: D102
        ...


class LearnerGroup:
    """The ranks as one learner. Results are rank 0's where all ranks agree by construction."""

    def __init__(self, ranks: Sequence[Rank]) -> None:
        self._ranks = ranks

    async def begin_phase(self, weights: str | None, optim: OptimConfig, total_steps: int) -> str:
        """Load named weights, start with a fresh optimizer; returns the hash of the weights."""
        return await self._all("begin_phase", weights, optim, total_steps)

    async def merge(self, sources: Sequence[tuple[str, float]]) -> str:
        """Take the weighted average of named weights, (directory, share) of each; returns its hash."""
        return await self._all("merge", list(sources))

    async def resume(self, directory: str, began_from: str | None, optim: OptimConfig, total_steps: int) -> None:
        """Continue a phase that began from these weights at a checkpoint with optimizer."""
        await self._all("resume", directory, began_from, optim, total_steps)

    async def step(self, batch: Batch, objective: Objective) -> dict[str, float]:
        """Train on one batch; returns metrics that are global over the ranks."""
        return await self._all("step", batch, objective)

    async def nll(self, batch: Batch) -> float:
        """Mean negative log-likelihood of a batch's loss tokens; nothing is trained."""
        return await self._all("nll", batch)

    async def layout(self) -> WeightLayout:
        """Where each tensor lies in a weight slot, and where the ranks serve their rows, if they do."""
        layouts: list[WeightLayout] = await self._each("layout")
        return replace(layouts[0], sources=tuple(source for layout in layouts for source in layout.sources))

    async def stage(self, slot: WeightSlot) -> None:
        """Every rank writes its own rows into the slot, or keeps a copy of them to serve."""
        await self._all("stage", slot)

    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        """[L-1] log-probs of the given sequences under the learner's weights."""
        return await self._all("probe", list(sequences))

    async def weights_hash(self) -> str:
        """sha256 of the full weights, independent of the number of ranks."""
        return await self._all("weights_hash")

    async def save(self, directory: str, optimizer: bool) -> None:
        """Begin to write a sharded checkpoint of now; returns when every rank has copied its state."""
        await self._all("save", directory, optimizer)

    async def saved(self, timeout_s: float) -> bool:
        """Whether the last `save` is whole and durable; waits at most `timeout_s`. Raises `NotWritten` if it failed."""
        return all(await self._each("saved", timeout_s))

    async def export(self, directory: str) -> None:
        """Hugging Face model directory."""
        await self._all("export", directory)

    async def _all(self, method: str, *args: Any) -> Any:
        return (await self._each(method, *args))[0]

    async def _each(self, method: str, *args: Any) -> list[Any]:
        return await first_failure_wins([partial(_call, *rank, method, args) for rank in enumerate(self._ranks)])


async def _call(number: int, rank: Rank, method: str, args: tuple[Any, ...]) -> Any:
    """Raises `TimeoutError` when the rank waited longer for another one than a collective may take."""
    try:
        return await rank.call(method, *args)
    except RuntimeError as error:  # torch has no class for it
        if "Timed out waiting" not in str(error):
            raise
        raise TimeoutError(f"learner rank {number} waited in vain for another rank in {method}: {error}") from error


async def first_failure_wins(calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Run calls together; the first exception is raised at once and the others are no longer waited for."""
    tasks = [asyncio.ensure_future(call()) for call in calls]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
