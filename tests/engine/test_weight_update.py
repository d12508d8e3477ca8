"""What a weight update does to requests in flight, in both KV modes, held against transformers forward passes."""

import asyncio
import copy
import dataclasses
import itertools

import numpy as np
import pytest

from rollout.records import GenerationRequest, Segment

pytestmark = [
    pytest.mark.engine,
    # What vllm and torch warn of when imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TOLERANCE = 1e-4
ANSWER = 200  # tokens

_numbers = itertools.count()


@pytest.fixture
def keep(engine, reference, run):
    """The engine that keeps KV, and its learner, in step."""
    run(engine.load_weights(reference.stage_new_weights()))
    return engine, reference


@pytest.fixture
def recompute(recompute_engine, recompute_reference, run):
    """The engine that computes KV again, and its learner, in step."""
    run(recompute_engine.load_weights(recompute_reference.stage_new_weights()))
    return recompute_engine, recompute_reference


@pytest.fixture(params=["keep", "recompute"])
def either(request):
    """Both in turn."""
    return request.getfixturevalue(request.param)


def prompt(seed, length=40) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 200, length).astype(np.int32)


def greedy(prompt_ids, tokens=ANSWER) -> GenerationRequest:
    return GenerationRequest(f"u{next(_numbers)}", prompt_ids, tokens, 0.0, 0)


class InFlight:
    """A request that is being answered, and what it has so far."""

    def __init__(self, engine, asked) -> None:
        self.asked = asked
        self.so_far = Segment.empty()
        self._task = asyncio.create_task(self._read(engine))

    async def _read(self, engine) -> Segment:
        async for piece in engine.generate(self.asked):
            self.so_far = Segment.concatenate([self.so_far, piece])
        return self.so_far

    def whole(self) -> asyncio.Task[Segment]:
        return self._task


async def answer(engine, asked) -> Segment:
    return await InFlight(engine, asked).whole()


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


async def answers_across_a_load(engine, asked, slot) -> list[Segment]:
    """Greedy answers of requests that all have tokens of both weights."""
    flights = [InFlight(engine, one) for one in asked]
    await until(lambda: all(len(flight.so_far) for flight in flights))
    await asyncio.sleep(0.05)
    await engine.load_weights(slot)
    return await asyncio.gather(*(flight.whole() for flight in flights))


def logits(model, token_ids, past=None):
    """[L, vocab], and the KV cache with these tokens in it."""
    import torch

    with torch.inference_mode():
        made = model(torch.as_tensor(np.asarray(token_ids, np.int64))[None], past_key_values=past, use_cache=True)
        return torch.log_softmax(made.logits[0], -1).numpy(), made.past_key_values


def logprobs_of(model, prompt_ids, tokens) -> np.ndarray:
    """[L] log-probs of an answer's tokens by one forward pass."""
    rows, _ = logits(model, np.concatenate([prompt_ids, tokens]))
    return rows[len(prompt_ids) - 1 : -1][np.arange(len(tokens)), tokens]


def logprobs_on_old_kv(old, new, prompt_ids, tokens, cut) -> np.ndarray:
    """[L-cut] log-probs of tokens cut… under `new`, on the KV that `old` had computed when it had sampled `cut`."""
    everything = np.concatenate([prompt_ids, tokens])
    first = len(prompt_ids) + cut - 1  # sampled last by the old weights, read first by the new ones
    _, kv = logits(old, everything[:first])
    rows, _ = logits(new, everything[first:-1], kv)
    return rows[np.arange(len(tokens) - cut), tokens[cut:]]


def cut_of(segment, old_version) -> int:
    """Number of tokens of the old weights; all of them come first, and every later one is of the next version."""
    cut = int((segment.versions == old_version).sum())
    np.testing.assert_array_equal(
        segment.versions, np.repeat([old_version, old_version + 1], [cut, len(segment) - cut])
    )
    return cut


def test_recompute_goes_on_as_a_fresh_request_under_the_new_weights(recompute, run):
    engine, reference = recompute
    old, old_version = copy.deepcopy(reference.model), reference.version
    slot = reference.stage_new_weights()
    asked = [greedy(prompt(seed)) for seed in range(6)]
    for one, segment in zip(asked, run(answers_across_a_load(engine, asked, slot)), strict=True):
        cut = cut_of(segment, old_version)
        assert 0 < cut < ANSWER == len(segment)
        before, after = segment.token_ids[:cut], segment.token_ids[cut:]
        np.testing.assert_allclose(segment.logprobs[:cut], logprobs_of(old, one.prompt_ids, before), atol=TOLERANCE)
        context = np.concatenate([one.prompt_ids, before])
        np.testing.assert_allclose(segment.logprobs[cut:], logprobs_of(reference.model, context, after), atol=TOLERANCE)
        fresh = run(answer(engine, greedy(context, len(after))))
        np.testing.assert_array_equal(fresh.token_ids, after)
        np.testing.assert_allclose(fresh.logprobs, segment.logprobs[cut:], atol=TOLERANCE)


def test_keep_goes_on_on_the_old_kv_which_no_fresh_request_would(keep, run):
    engine, reference = keep
    old, old_version = copy.deepcopy(reference.model), reference.version
    slot = reference.stage_new_weights()
    asked = [greedy(prompt(seed)) for seed in range(6)]
    for one, segment in zip(asked, run(answers_across_a_load(engine, asked, slot)), strict=True):
        cut = cut_of(segment, old_version)
        assert 0 < cut < ANSWER == len(segment)
        before, after = segment.token_ids[:cut], segment.token_ids[cut:]
        np.testing.assert_allclose(segment.logprobs[:cut], logprobs_of(old, one.prompt_ids, before), atol=TOLERANCE)
        mixed = logprobs_on_old_kv(old, reference.model, one.prompt_ids, segment.token_ids, cut)
        np.testing.assert_allclose(segment.logprobs[cut:], mixed, atol=TOLERANCE)
        fresh = logprobs_of(reference.model, np.concatenate([one.prompt_ids, before]), after)
        assert np.abs(segment.logprobs[cut:] - fresh).max() > 1e-3


def test_a_new_request_never_reads_what_a_request_in_flight_stored_under_its_old_salt(either, run):
    engine, reference = either
    shared = prompt(7, length=130)  # several KV blocks

    async def scenario():
        flight = InFlight(engine, greedy(shared, 120))
        await until(lambda: len(flight.so_far))
        await engine.load_weights(reference.stage_new_weights())
        during = answer(engine, greedy(shared, 24))
        return await asyncio.gather(flight.whole(), during, answer(engine, greedy(shared, 24)))

    _, *new = run(scenario())
    new.append(run(answer(engine, greedy(shared, 24))))
    for segment in new:
        assert set(segment.versions) == {reference.version}
        assert_greedy(reference, shared, segment)
    # The same version number again, with other weights: the salt names the load, not the number.
    slot = reference.stage_new_weights(engine.version)
    run(engine.load_weights(slot))
    again = run(answer(engine, greedy(shared, 24)))
    assert set(again.versions) == {slot.version}
    assert_greedy(reference, shared, again)


def assert_greedy(reference, prompt_ids, segment) -> None:
    rows, _ = logits(reference.model, np.concatenate([prompt_ids, segment.token_ids]))
    np.testing.assert_array_equal(segment.token_ids, rows[len(prompt_ids) - 1 : -1].argmax(-1))


def test_every_token_names_its_weights_when_the_load_meets_running_preempted_and_queued_requests(recompute, run):
    engine, reference = recompute
    old, old_version = copy.deepcopy(reference.model), reference.version
    slot = reference.stage_new_weights()
    shape = reference.model.config
    bytes_per_token = 2 * 4 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    capacity = (16 << 20) // bytes_per_token
    asked = [dataclasses.replace(greedy(prompt(seed)), temperature=1.0, seed=seed) for seed in range(96)]

    async def scenario():
        flights = [InFlight(engine, one) for one in asked]

        def unfinished() -> list[InFlight]:
            return [flight for flight in flights if len(flight.so_far) and not flight.whole().done()]

        # 64 are decoded together, and more tokens are under way than there is KV for: some requests were preempted.
        await until(lambda: sum(40 + len(flight.so_far) for flight in unfinished()) > capacity)
        await engine.load_weights(slot)
        return await asyncio.gather(*(flight.whole() for flight in flights))

    segments = run(scenario())
    cuts = []
    for one, segment in zip(asked, segments, strict=True):
        cut = cut_of(segment, old_version)
        cuts.append((cut, len(segment)))
        expected = np.concatenate(
            [
                logprobs_of(old, one.prompt_ids, segment.token_ids[:cut]),
                logprobs_of(reference.model, one.prompt_ids, segment.token_ids)[cut:],
            ]
        )
        np.testing.assert_allclose(segment.logprobs, expected, atol=TOLERANCE)
    assert sum(cut == 0 for cut, _ in cuts) >= 12  # were queued
    assert sum(0 < cut < length for cut, length in cuts) >= 12  # had tokens


def test_an_answer_aborted_during_the_pause_keeps_every_token_it_had(either, run):
    engine, reference = either
    old, old_version = copy.deepcopy(reference.model), reference.version
    slot = reference.stage_new_weights()

    async def scenario():
        doomed, sibling = (InFlight(engine, greedy(prompt(3))) for _ in range(2))
        await until(lambda: len(doomed.so_far) and len(sibling.so_far))
        load = asyncio.create_task(engine.load_weights(slot))
        while not await engine._llm.is_paused():
            assert not load.done(), "the load was over before its pause was seen"
        await engine.abort(doomed.asked.id)
        aborted = await doomed.whole()
        await load
        return aborted, await sibling.whole()

    aborted, sibling = run(scenario())
    assert aborted.finish_reason == "abort"
    assert cut_of(aborted, old_version) == len(aborted)
    np.testing.assert_allclose(aborted.logprobs, logprobs_of(old, prompt(3), aborted.token_ids), atol=TOLERANCE)
    # Both were decoded side by side, the sibling admitted last: what it had at the pause, the aborted one had, too.
    assert len(aborted) >= cut_of(sibling, old_version) > 0
    assert len(sibling) == ANSWER
