"""How answers to one prompt are made. A workflow sees a context (generate, score), never an engine or an actor."""

import asyncio
from typing import Protocol

import numpy as np

from rollout.records import IntArray, Lease, Rollout, RolloutGroup, RolloutStatus, Segment
from verifiers.records import Verdict


class Context(Protocol):
    """What a workflow may ask for. Every call has a key that is its own within the sample.

    Calls are durable: after a crash the workflow runs again from its start, what was generated and scored before is
    replayed from the journal, and an answer that was cut off goes on from its last token. So a workflow decides from
    what these calls return, and from nothing else that changes.
    """

    async def generate(self, call: str, sample_index: int, prompt_ids: IntArray) -> Segment:
        """One whole answer to `prompt_ids` [P]."""
        ...

    async def score(self, call: str, sample_index: int, response: Segment) -> Verdict:
        """The verdict on the answer of a call; failures of the verifier are verdicts too (`timeout`, `error`)."""
        ...


class Workflow(Protocol):
    """Makes the siblings of one lease."""

    async def __call__(self, lease: Lease, context: Context) -> RolloutGroup:
        """Generate and score the whole group."""
        ...


async def single_turn(lease: Lease, context: Context) -> RolloutGroup:
    """Each sibling is one answer to the prompt, scored as soon as it is there."""
    try:
        async with asyncio.TaskGroup() as tasks:
            siblings = [tasks.create_task(_sibling(lease, context, index)) for index in range(lease.num_samples)]
    except ExceptionGroup as failures:  # siblings fail together; the first says why
        raise failures.exceptions[0] from None
    return RolloutGroup(lease.key, lease.prompt, tuple(sibling.result() for sibling in siblings))


async def _sibling(lease: Lease, context: Context, index: int) -> Rollout:
    prompt_ids = np.array(lease.prompt.token_ids, np.int32)
    response = await context.generate("answer", index, prompt_ids)
    verdict = await context.score("answer", index, response)
    return _rollout(lease.prompt.id, index, prompt_ids, response, verdict)


def _rollout(prompt_id: str, index: int, prompt_ids: IntArray, response: Segment, verdict: Verdict) -> Rollout:
    if response.finish_reason == "abort":  # cut by the engine, not by the policy: no verdict on it means anything
        verdict = Verdict(
            None, "error", verdict.verifier, verdict.version, feedback="the engine ended the answer early"
        )
    status: RolloutStatus = "truncated" if response.finish_reason == "length" else "finished"
    return Rollout(
        prompt_id=prompt_id,
        sample_index=index,
        prompt_ids=prompt_ids,
        response=response,
        loss_mask=np.ones(len(response), np.bool_),
        verdict=verdict,
        status=status if verdict.scored else "failed",
    )
