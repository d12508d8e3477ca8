"""A leased group under way at a rollout worker: what it has of answers, what the engine has of it."""

import asyncio
from dataclasses import dataclass, field

import numpy as np

from rollout.answer_log import AnswerLog
from rollout.records import GenerationRequest, GroupProgress, IntArray, Lease, Segment
from rollout.seeds import sample_seed


@dataclass(slots=True, eq=False)
class RunningGroup:
    """A group under way."""

    lease: Lease
    log: AnswerLog
    task: "asyncio.Task[None] | None" = None
    requests: set[str] = field(default_factory=set)
    """Requests that the engine has."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an interrupted group has no request left."""
    began: bool = False
    """True from its first request on."""
    interrupted: bool = False
    delivered: bool = False
    """True from when its answers are on their way to the buffer."""

    @property
    def generates(self) -> bool:
        """False while its answers are scored or delivered: then there is room for another group in the engine."""
        return bool(self.requests) or not self.began

    async def unless_interrupted(self) -> None:
        """Go on, or wait for the end: the lease of an interrupted group is on its way back."""
        if self.interrupted:
            await asyncio.Event().wait()

    def report(self, newest: int) -> GroupProgress:
        """What the buffer does not know yet, of versions up to `newest`."""
        return GroupProgress(self.lease.key, self.lease.attempt, self.log.news(newest))


def request_of(lease: Lease, call: str, sample_index: int, prompt_ids: IntArray, known: Segment) -> GenerationRequest:
    """The rest of an answer: what is known of it becomes prompt, and shrinks the budget."""
    identity = f"{lease.key.purpose}/{lease.key.epoch}/{lease.key.prompt_id}/{sample_index}/{call}"
    return GenerationRequest(
        id=f"{identity}/{lease.attempt}",
        prompt_ids=np.concatenate([prompt_ids, known.token_ids]),
        max_new_tokens=lease.sampling.max_new_tokens - len(known),
        temperature=lease.sampling.temperature,
        seed=sample_seed(lease.sampling.seed, lease.key, sample_index, call, len(known)),
    )
