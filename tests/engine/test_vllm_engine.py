"""The real engine on CPU, held against a transformers forward pass of the same weights."""

import asyncio
import dataclasses
import itertools
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest

from rollout.config import EngineConfig
from rollout.engine import EngineDead
from rollout.records import GenerationRequest, Segment
from rollout.weights import WeightLayout, WeightSlot

pytestmark = [
    pytest.mark.engine,
    # What vllm and torch warn of when imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TOLERANCE = 1e-4
PROMPT = np.arange(40, 80, dtype=np.int32)
LONG_PROMPT = np.tile(np.arange(60, 100, dtype=np.int32), 3)  # several KV blocks

_numbers = itertools.count()


def request(prompt=PROMPT, tokens=24, temperature=1.0, seed=0, stop_ids=()) -> GenerationRequest:
    return GenerationRequest(f"r{next(_numbers)}", prompt, tokens, temperature, seed, stop_ids)


async def pieces_of(engine, asked) -> list[Segment]:
    return [piece async for piece in engine.generate(asked)]


async def answer(engine, asked) -> Segment:
    whole = Segment.empty()
    for piece in await pieces_of(engine, asked):
        whole = Segment.concatenate([whole, piece])
    return whole


def expected_logprobs(reference, prompt, tokens, temperature=1.0) -> np.ndarray:
    rows = reference.logprobs(np.concatenate([prompt, tokens]), temperature)[len(prompt) - 1 :]
    return rows[np.arange(len(tokens)), tokens]


def assert_greedy(reference, prompt, segment) -> None:
    rows = reference.logprobs(np.concatenate([prompt, segment.token_ids]))[len(prompt) - 1 :]
    np.testing.assert_array_equal(segment.token_ids, rows.argmax(-1))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprobs_are_those_of_the_tempered_distribution(engine, reference, run, temperature):
    segment = run(answer(engine, request(tokens=64, temperature=temperature, seed=5)))
    expected = expected_logprobs(reference, PROMPT, segment.token_ids, temperature)
    assert len(segment) >= 32
    np.testing.assert_allclose(segment.logprobs, expected, atol=TOLERANCE)
    assert (segment.token_ids.dtype, segment.logprobs.dtype, segment.versions.dtype) == (np.int32, np.float32, np.int32)


def test_the_seed_decides_the_answer_whoever_else_is_in_the_batch(engine, run):
    async def scenario():
        alone = await answer(engine, request(seed=7))
        crowd = await asyncio.gather(*(answer(engine, request(seed=seed)) for seed in (5, 6, 7, 8)))
        return alone, crowd

    alone, crowd = run(scenario())
    np.testing.assert_array_equal(alone.token_ids, crowd[2].token_ids)
    np.testing.assert_array_equal(alone.logprobs, crowd[2].logprobs)
    assert len({segment.token_ids.tobytes() for segment in crowd}) == 4


def test_more_seeded_prompts_than_fit_one_batch_are_all_answered(engine, run):
    async def scenario():
        prompts = [np.random.default_rng(i).integers(10, 200, 200).astype(np.int32) for i in range(40)]
        return await asyncio.gather(*(answer(engine, request(p, tokens=4, seed=i)) for i, p in enumerate(prompts)))

    assert all(len(segment) for segment in run(scenario()))


def test_a_stream_joined_is_the_whole_answer(engine, run):
    async def scenario():
        streamed = await pieces_of(engine, request(tokens=150, temperature=0.0))
        again = await answer(engine, request(tokens=150, temperature=0.0))
        return streamed, again

    streamed, again = run(scenario())
    assert len(streamed) > 2
    assert [piece.finish_reason for piece in streamed] == [None] * (len(streamed) - 1) + ["length"]
    np.testing.assert_array_equal(np.concatenate([piece.token_ids for piece in streamed]), again.token_ids)
    np.testing.assert_array_equal(np.concatenate([piece.logprobs for piece in streamed]), again.logprobs)
    assert len(again) == 150


def test_an_answer_ends_with_its_stop_token(engine, run):
    whole = run(answer(engine, request(tokens=30, seed=3)))
    stop = int(whole.token_ids[10])
    end = whole.token_ids.tolist().index(stop) + 1
    stopped = run(answer(engine, request(tokens=30, seed=3, stop_ids=(stop,))))
    assert stopped.finish_reason == "stop"
    np.testing.assert_array_equal(stopped.token_ids, whole.token_ids[:end])


def test_the_tokenizers_end_of_sequence_ends_an_answer(engine, reference, run):
    async def scenario():
        return await asyncio.gather(*(answer(engine, request(tokens=100, seed=seed)) for seed in range(24)))

    answers = run(scenario())
    eos = reference.model.config.eos_token_id
    ended = [segment for segment in answers if segment.finish_reason == "stop"]
    assert ended
    assert all(segment.token_ids[-1] == eos for segment in ended)
    assert all(eos not in segment.token_ids[:-1] for segment in answers)


def test_an_aborted_answer_keeps_the_tokens_it_has(engine, run):
    async def scenario():
        asked = request(tokens=200, temperature=0.0)
        got = Segment.empty()
        async for piece in engine.generate(asked):
            got = Segment.concatenate([got, piece])
            await engine.abort(asked.id)
        return got, await answer(engine, dataclasses.replace(asked, id="whole"))

    got, whole = run(scenario())
    assert got.finish_reason == "abort"
    assert 1 <= len(got) < 200
    np.testing.assert_array_equal(got.token_ids, whole.token_ids[: len(got)])


def test_aborting_an_unknown_request_does_nothing(engine, run):
    run(engine.abort("never asked"))


def test_a_prompt_that_does_not_fit_is_a_value_error(engine, run):
    with pytest.raises(ValueError, match="256") as caught:
        run(answer(engine, request(np.full(300, 50, np.int32))))
    assert type(caught.value).__module__ == "builtins"
    assert len(run(answer(engine, request()))) > 0


def test_after_a_load_the_probe_and_new_tokens_come_from_the_new_weights(engine, reference, run):
    sequences = [PROMPT, LONG_PROMPT]
    before = run(engine.logprobs(sequences))
    for _ in range(2):  # once into each file
        slot = reference.stage_new_weights()
        run(engine.load_weights(slot))
        assert engine.version == slot.version
        probed = run(engine.logprobs(sequences))
        for old, new, sequence in zip(before, probed, sequences, strict=True):
            expected = reference.logprobs(sequence)[np.arange(len(sequence) - 1), sequence[1:]]
            np.testing.assert_allclose(new, expected, atol=TOLERANCE)
            assert np.abs(new - old).max() > 0.1
        before = probed
        segment = run(answer(engine, request(seed=9)))
        assert set(segment.versions) == {slot.version}
        np.testing.assert_allclose(
            segment.logprobs, expected_logprobs(reference, PROMPT, segment.token_ids), atol=TOLERANCE
        )


def test_a_probe_of_a_full_engine_comes_back_while_the_answers_still_run(engine, run):
    async def scenario():
        crowd = [request(tokens=210, temperature=0.0) for _ in range(12)]  # all the engine decodes together
        begun = asyncio.Semaphore(0)

        async def consume(asked):
            async for piece in engine.generate(asked):
                if len(piece) and not piece.finish_reason:
                    begun.release()

        running = [asyncio.create_task(consume(asked)) for asked in crowd]
        for _ in crowd:
            await begun.acquire()
        probed = await engine.logprobs([LONG_PROMPT] * 4)
        ended = [task for task in running if task.done()]
        await asyncio.gather(*running)
        return probed, ended, await engine.logprobs([LONG_PROMPT])

    probed, ended, (alone,) = run(scenario())
    assert not ended
    for among_others in probed:
        np.testing.assert_allclose(among_others, alone, atol=TOLERANCE)


def test_an_engine_of_one_slot_has_none_beside_it_that_could_share_a_batch(engine, model_dir):
    from rollout.vllm_engine import PROBE_SLOTS, _engine_args

    slots = {
        asked: _engine_args(str(model_dir), EngineConfig(max_num_seqs=asked), 256, 0, "shared_memory").max_num_seqs
        for asked in (1, 12)
    }
    assert slots == {1: 1, 12: 12 + PROBE_SLOTS}


def test_a_cache_of_a_given_size_wants_no_share_of_the_gpu_that_a_learner_rank_may_have_taken(model_dir):
    from rollout.vllm_engine import _engine_args

    shares = {
        size: _engine_args(str(model_dir), EngineConfig(kv_cache_mb=size), 256, 0, "ipc").gpu_memory_utilization
        for size in (64, None)
    }
    assert shares[64] < 0.05
    assert shares[None] > 0.9


def test_a_prompt_cached_under_old_weights_is_read_anew(engine, reference, run):
    run(answer(engine, request(LONG_PROMPT, temperature=0.0)))
    run(engine.load_weights(reference.stage_new_weights()))
    segment = run(answer(engine, request(LONG_PROMPT, temperature=0.0)))
    assert_greedy(reference, LONG_PROMPT, segment)


def test_a_request_in_flight_carries_both_versions_in_order(engine, reference, run):
    async def scenario():
        old = engine.version
        pieces, load = [], None
        async for piece in engine.generate(request(tokens=200, temperature=0.0)):
            pieces.append(piece)
            if load is None:
                load = asyncio.create_task(engine.load_weights(reference.stage_new_weights()))
        await load
        return old, pieces

    old, pieces = run(scenario())
    versions = np.concatenate([piece.versions for piece in pieces])
    assert len(versions) == 200
    assert set(versions) == {old, old + 1}
    assert (np.diff(versions) >= 0).all()


def test_a_request_queued_across_a_load_starts_on_the_new_weights(engine, reference, run):
    from rollout.vllm_engine import PROBE_SLOTS

    async def scenario():
        await answer(engine, request(LONG_PROMPT, tokens=1))  # its blocks are cached under the old weights
        # All that the engine decodes together, and those that take the slots of a probe.
        crowd = [request(tokens=210, temperature=0.0) for _ in range(12 + PROBE_SLOTS)]
        running = [asyncio.create_task(answer(engine, asked)) for asked in crowd]
        await asyncio.sleep(0.1)
        queued = asyncio.create_task(answer(engine, request(LONG_PROMPT, seed=4)))
        await asyncio.sleep(0.05)
        await engine.load_weights(reference.stage_new_weights())
        assert not queued.done()
        for asked in crowd:
            await engine.abort(asked.id)
        await asyncio.gather(*running)
        return await queued

    segment = run(scenario())
    assert set(segment.versions) == {reference.version}
    expected = expected_logprobs(reference, LONG_PROMPT, segment.token_ids)
    np.testing.assert_allclose(segment.logprobs, expected, atol=TOLERANCE)


def test_a_slot_of_other_tensors_is_refused_and_the_engine_goes_on(engine, reference, run):
    triples = [(spec.name, spec.dtype, spec.shape) for spec in reference.layout.tensors]
    name, _, (rows, columns) = triples[0]
    wrong = {
        rf"{name} was float32\[{rows + 1}, {columns}\], expected float32\[{rows}, {columns}\]": [
            (name, "float32", (rows + 1, columns)),
            *triples[1:],
        ],
        rf"{name} was bfloat16\[.*expected float32": [(name, "bfloat16", (rows, columns)), *triples[1:]],
        rf"{name} was absent": triples[1:],
        "lm_head.weight was .*expected absent": [*triples, ("lm_head.weight", "float32", (rows, columns))],
    }
    path = reference.stage_new_weights().path
    before = engine.version
    for message, tensors in wrong.items():
        with pytest.raises(ValueError, match=message):
            run(engine.load_weights(WeightSlot(path, WeightLayout.of(tensors), 10_000)))
    with pytest.raises(ValueError, match="must exist and hold"):
        run(engine.load_weights(WeightSlot("/nowhere", reference.layout, 10_000)))
    assert engine.version == before
    assert set(run(answer(engine, request())).versions) == {before}
    run(engine.load_weights(WeightSlot(path, reference.layout, reference.version)))


def test_a_load_that_fails_half_way_is_the_death_of_the_engine(make_engine, reference, run, left_in_shared_memory):
    def that_loses_its_place(engine: type) -> type:
        class Engine(engine):
            async def _checked_file(self, slot):  # what was checked is not what is loaded
                file = await super()._checked_file(slot)
                first, *rest = file["tensors"]
                return file | {"tensors": [first | {"offset": 2}, *rest]}

        return Engine

    async def scenario():
        engine = make_engine(but=that_loses_its_place)
        pids = engine.pids()
        in_flight = asyncio.create_task(answer(engine, request(tokens=200)))
        await asyncio.sleep(0.05)
        with pytest.raises(EngineDead, match="half way") as loading:
            await engine.load_weights(reference.stage_new_weights())
        with pytest.raises(EngineDead, match="half way") as generating:
            await in_flight
        with pytest.raises(EngineDead):
            await answer(engine, request())
        await engine.close()
        return pids, [loading.value, generating.value]

    pids, errors = run(scenario())
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not left_in_shared_memory()
    for error in errors:
        assert error.__cause__ is None
        assert b"vllm" not in pickle.dumps(error)


OWNER = """
import os, sys, time
from rollout.engine_env import ENGINE_ENV
if __name__ == "__main__":
    os.environ.update(ENGINE_ENV)
    from rollout.config import EngineConfig
    from rollout.vllm_engine import VllmEngine
    engine = VllmEngine(sys.argv[1], EngineConfig(kv_cache_mb=16), 256, 0)
    print(*engine.pids(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("with_family", [False, True], ids=["alone", "with all its descendants, as Ray does it"])
def test_the_engine_process_dies_with_its_killed_owner(model_dir, tmp_path, until, left_in_shared_memory, with_family):
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    with subprocess.Popen([sys.executable, str(script), str(model_dir)], stdout=subprocess.PIPE, text=True) as owner:
        family = []
        try:
            pids = [int(pid) for pid in owner.stdout.readline().split()]
            assert pids
            assert all(psutil.pid_exists(pid) for pid in pids)
            if with_family:  # and with them the process that would clear up after the others
                family = psutil.Process(owner.pid).children(recursive=True)
                assert len(family) > len(pids)
        finally:
            for process in family:
                process.kill()
            os.kill(owner.pid, signal.SIGKILL)
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 5)
    until(lambda: not left_in_shared_memory(), 5)
