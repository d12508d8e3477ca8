"""How answers to one prompt are made. A workflow sees a context (generate, score), never an engine or an actor."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rollout.records import IntArray, Lease, Rollout, RolloutGroup, RolloutStatus, Segment
from verifiers.records import Verdict


class Context(Protocol):
    """What a workflow may ask for."""

    async def generate(self, key: str, sample_index: int, prompt_ids: IntArray) -> Segment:
        """One whole answer. `key` names the call within the sample, so that a restarted workflow can replay it."""
        ...

    async def score(self, responses: Sequence[Segment]) -> list[Verdict]:
        """A verdict per answer; failures of the verifier are verdicts too (status `timeout` or `error`)."""
        ...


class Workflow(Protocol):
    """Makes the siblings of one lease."""

    async def __call__(self, lease: Lease, context: Context) -> RolloutGroup:
        """Generate and score the whole group."""
        ...


async def single_turn(lease: Lease, context: Context) -> RolloutGroup:
    """Each sibling is one answer to the prompt, scored once the group is complete."""
    prompt_ids = np.array(lease.prompt.token_ids, np.int32)
    try:
        async with asyncio.TaskGroup() as tasks:
            answers = [
                tasks.create_task(context.generate("answer", index, prompt_ids)) for index in range(lease.num_samples)
            ]
    except ExceptionGroup as failures:  # siblings fail together; the first says why
        raise failures.exceptions[0] from None
    responses = [answer.result() for answer in answers]
    verdicts = await context.score(responses)
    return RolloutGroup(
        lease.key,
        lease.prompt,
        tuple(
            _rollout(lease.prompt.id, index, prompt_ids, response, verdict)
            for index, (response, verdict) in enumerate(zip(responses, verdicts, strict=True))
        ),
    )


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
