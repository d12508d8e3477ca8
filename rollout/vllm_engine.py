"""vLLM as a `rollout.engine.Engine`. No object or exception of vLLM leaves it.

This half lives in the owner (a rollout worker); `rollout.vllm_worker` is the other, in the engine process that the
owner spawns, where weights are copied out of a file laid out as `rollout.weights` says, unless the learner pushes them
there (`rollout.weight_inlet`). It never decides what to generate, and who fills the file is not its business.

Set `rollout.engine_env.ENGINE_ENV` in the process before importing this.
"""

import asyncio
import bisect
import contextlib
import itertools
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError, VLLMError
from vllm.outputs import CompletionOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from rollout import shared_memory, vllm_worker
from rollout.config import EngineConfig
from rollout.engine import EngineDead
from rollout.leash import Leash
from rollout.memory_file import mapped
from rollout.records import FloatArray, GenerationRequest, IntArray, Segment
from rollout.transports import PUSHED, Transport
from rollout.weight_check import check_file, check_tensors, checkpoint_tensors
from rollout.weight_inlet import WeightInlet
from rollout.weight_landing import WeightLanding
from rollout.weight_sums import compare, promised
from rollout.weights import WeightSlot

STREAM_INTERVAL = 32
"""Tokens per piece of a streamed answer; the first token comes alone, at once."""
CLOSE_TIMEOUT_S = 20.0
PROBE_SLOTS = 4
"""Slots beyond `max_num_seqs`, so that a probe (of this many sequences) need not wait until answers end."""
PROBE_PRIORITY = -1
"""Before all answers, which have 0, where these are more than the slots and take those of the probe too."""

_ALL_THERE_IS, _NEXT_TO_NOTHING = 0.92, 0.01  # of a GPU; the first is vLLM's own default
_INITIAL_LABEL = "default"  # vLLM's label for the weights it started with, our version 0
_PROBE_IDS = itertools.count()


class VllmEngine:
    """An engine process and the way to talk to it; see `rollout.engine.Engine` for what each method promises.

    Construct it where it is used: the engine process dies with the thread that made it.

    Args:
        model_dir: Checkpoint folder in Hugging Face format; these weights are version 0.
        config: The `rollout.engine` section of the run file.
        context_length: Longest prompt plus answer, in tokens.
        seed: For whatever a request's own seed does not decide.
        transport: How weights come, for life: vLLM is told at the start.
        transfer_timeout_s: How long one version may take to get in.
        neighbour: The learner rank on the same GPU, where weights come by `ipc`.

    Raises:
        RuntimeError: The engine process did not come up.
    """

    def __init__(
        self,
        model_dir: str,
        config: EngineConfig,
        context_length: int,
        seed: int,
        transport: Transport = "shared_memory",
        transfer_timeout_s: float = 600.0,
        neighbour: int | None = None,
    ) -> None:
        self._expected = checkpoint_tensors(Path(model_dir), config.dtype)
        self._context_length = context_length
        self._recompute_kv = config.kv_on_update == "recompute"
        self._landing = WeightLanding()
        self._transfer_timeout_s = transfer_timeout_s
        self._inlet = (
            WeightInlet(self._join_group, config.tensor_parallel, transfer_timeout_s, neighbour)
            if transport in PUSHED
            else None
        )
        self._version = 0
        self._label = _INITIAL_LABEL  # names the weights in use: label of new tokens and salt of their KV blocks
        self._loads = 0
        self.pause_s = 0.0
        self.slots = config.max_num_seqs
        self._loading = asyncio.Lock()
        self._live: set[str] = set()
        self._aborted: set[str] = set()
        self._dead = ""
        self._closed = False
        self._llm = AsyncLLM.from_engine_args(_engine_args(model_dir, config, context_length, seed, transport))
        manager = self._llm.engine_core.resources.engine_manager
        self._roots = [psutil.Process(process.pid) for process in manager.processes]
        mapped = [shared_memory.names_mapped_by(pid) for pid in self.pids()]
        self._shared_names = set[str]().union(*mapped) - shared_memory.names_mapped_by(os.getpid())

    @property
    def version(self) -> int:
        """Policy version number that new tokens are labelled with."""
        return self._version

    def pids(self) -> list[int]:
        """The engine process and its workers, as long as they live."""
        return [process.pid for process in self._processes()]

    # -- generation -------------------------------------------------------------------------------------------

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Segment]:
        """Stream the answer in pieces of about `STREAM_INTERVAL` tokens; joined, they are the whole answer.

        Raises:
            ValueError: The prompt does not fit, or the id is already in flight.
            EngineDead: The engine cannot go on.
        """
        if request.id in self._live:
            raise ValueError(f"request ids are unique among requests in flight, got {request.id!r} twice")
        self._live.add(request.id)
        try:
            with self._builtin_errors():
                while True:
                    async with contextlib.aclosing(self._attempt(request)) as pieces:
                        async for piece in pieces:
                            if piece is None:
                                break
                            yield piece
                        else:
                            return
        finally:
            self._live.discard(request.id)
            self._aborted.discard(request.id)

    async def _attempt(self, request: GenerationRequest) -> AsyncGenerator[Segment | None, None]:
        """One submission. Yields None, and ends, when the weights changed between submission and first token.

        The salt keeps KV blocks of different weights apart, but it is fixed at submission: a request that was queued
        across an update would be prefilled on blocks of the old weights. It starts over, with nothing lost.
        """
        label = self._label
        params = SamplingParams(
            max_tokens=request.max_new_tokens,
            temperature=request.temperature,
            seed=request.seed,
            stop_token_ids=list(request.stop_ids),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            stream_interval=STREAM_INTERVAL,
        )
        prompt = {"prompt_token_ids": request.prompt_ids.tolist(), "cache_salt": label}
        if request.id in self._aborted:
            yield Segment.of([], [], [], "abort")
            return
        done = 0
        async with contextlib.aclosing(self._llm.generate(prompt, params, request.id)) as outputs:
            async for output in outputs:
                answer = output.outputs[0]
                starts = self._label_starts(request.id, answer)
                if done == 0 and starts and starts[0][0] != label and answer.finish_reason != "abort":
                    yield None
                    return
                tokens = list(answer.token_ids)
                pairs = zip(tokens, answer.logprobs or (), strict=True)
                logprobs = [choices[token].logprob for token, choices in pairs]
                versions = _versions(starts, done, done + len(tokens))
                done += len(tokens)
                yield Segment.of(tokens, logprobs, versions, answer.finish_reason)

    def _label_starts(self, request_id: str, answer: CompletionOutput) -> list[tuple[str, int]]:
        """[(label, index of its first token)] of an answer so far; vLLM itself tells it only at the end."""
        if answer.weight_versions is not None:
            return [(span.version, span.start) for span in answer.weight_versions]
        processor = self._llm.output_processor
        (internal_id,) = processor.external_req_ids[request_id]
        return processor.request_states[internal_id].weight_version_starts

    async def abort(self, request_id: str) -> None:
        """End a request at once: its stream yields what is left with finish reason `abort`. Unknown ids are ignored."""
        if request_id in self._live:
            self._aborted.add(request_id)
            with self._builtin_errors():
                await self._llm.abort(request_id)

    # -- weights ----------------------------------------------------------------------------------------------

    async def load_weights(self, slot: WeightSlot) -> None:
        """Swap the weights under the requests in flight; one load at a time.

        What becomes of their KV is `rollout.engine.kv_on_update`: kept, or dropped and computed again at resume.

        Raises:
            ValueError: The slot does not hold what this engine holds; nothing was touched.
            WeightsMissing: The bytes did not come to this host; nothing was touched.
            WeightsDisagree: The bytes that the engine reads are not those that were written; nothing was touched.
            EngineDead: The load failed half way or took longer than `transfer_timeout_s`. The engine process is killed,
                so that no token ever comes from half-loaded weights.
        """
        check_tensors(slot, self._expected)
        # A caller that is cancelled while it waits must not leave the engine between two versions.
        await asyncio.shield(self._load(slot))

    async def _load(self, slot: WeightSlot) -> None:
        """Pause, load, relabel, resume, under the lock.

        No request reads KV of weights that it should not. A salt names the weights a request was *submitted* under,
        and labels are unique: each load makes its own, also of a version loaded before.
        * keep: requests in flight go on storing blocks of mixed weights under their old salt. The only others with
          that salt were queued across the load, and `_attempt` starts those over under the new one.
        * recompute: nothing cached outlives the pause, so what is stored later under an old salt is of the weights in
          use, until the next load clears it too.
        """
        async with self._loading:
            label = f"{slot.version}/{self._loads + 1}"
            with self._builtin_errors():
                info = await (self._inlet.announced(slot) if self._inlet else self._checked_file(slot))
                began = time.monotonic()
                async with self._whole_or_dead(f"loading version {slot.version}"):
                    # `pause_generation` less the 20 ms that it sleeps afterwards, "not required for correctness".
                    await self._llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=self._recompute_kv)
                    await self._llm.start_weight_update()
                    sent = [self._inlet.sent(slot.version)] if self._inlet else []
                    await asyncio.gather(self._llm.update_weights(WeightTransferUpdateRequest(info)), *sent)
                    await self._llm.finish_weight_update(label)
                    self._loads, self._version, self._label = self._loads + 1, slot.version, label
                    self._landing.in_use = info.get("path", "")
                    await self._llm.resume_generation()
                self.pause_s = time.monotonic() - began

    async def _checked_file(self, slot: WeightSlot) -> dict[str, Any]:
        """A file of this host that holds the version, as the engine process itself reads it."""
        slot = await self._landing.land(slot)
        check_file(slot)
        file = {"path": slot.path, "nbytes": slot.layout.nbytes, "tensors": list(map(asdict, slot.layout.tensors))}
        written = promised(mapped(slot.path, slot.layout.nbytes), slot.layout, slot.version)
        for read in await self._llm.collective_rpc("sums_of_weights", kwargs=file):
            compare(np.array(read, np.uint64), written, slot.layout, slot.version)
        return file

    async def _join_group(self, init_info: dict[str, Any]) -> None:
        """Leave the group with the learner's sender, if any, and join the one of these facts."""
        async with self._whole_or_dead("joining the learner's group"):
            await self._llm.shutdown_weight_transfer_engine()
            await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info))

    @contextlib.asynccontextmanager
    async def _whole_or_dead(self, doing: str) -> AsyncIterator[None]:
        """What fails half way, is given up or takes too long ends the engine process: it may hang or be half-loaded."""
        try:
            async with asyncio.timeout(self._transfer_timeout_s):
                yield
        except (Exception, asyncio.CancelledError) as error:
            self._dead = f"{doing} failed half way: {type(error).__name__}: {error}"
            _kill(self._processes())
            if isinstance(error, asyncio.CancelledError):
                raise
            raise EngineDead(self._dead) from None

    async def logprobs(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        """[L-1] log-probs of tokens 1… of each sequence at temperature 1, by a forward pass that reads no cache.

        Raises:
            ValueError: A sequence is shorter than 2 tokens or leaves no room in the context.
        """
        for sequence in sequences:
            if not 2 <= len(sequence) < self._context_length:
                raise ValueError(
                    f"a probe has 2 to {self._context_length - 1} tokens (the context is {self._context_length} and "
                    f"one token is sampled after it), got {len(sequence)}"
                )
        async with self._loading:
            return await asyncio.gather(*(self._prompt_logprobs(sequence) for sequence in sequences))

    async def _prompt_logprobs(self, sequence: IntArray) -> FloatArray:
        params = SamplingParams(
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            skip_reading_prefix_cache=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": sequence.tolist(), "cache_salt": self._label}
        with self._builtin_errors():
            name = f"probe-{next(_PROBE_IDS)}"
            async for output in self._llm.generate(prompt, params, name, priority=PROBE_PRIORITY):
                rows = zip(sequence.tolist()[1:], output.prompt_logprobs[1:], strict=True)
                return np.array([choices[token].logprob for token, choices in rows], np.float32)
        raise EngineDead("the engine ended a probe without an answer")

    # -- life and death ---------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End what is in flight as aborted and the engine process; nothing stays behind. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(EngineDeadError):
            await self._llm.abort(list(self._live))
        processes = self._processes()
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()  # or it would report the shutdown as a death
        await asyncio.to_thread(self._llm.shutdown, CLOSE_TIMEOUT_S)
        self._llm.engine_core.resources.ctx.destroy(linger=0)  # the sockets' I/O threads, which shutdown forgets
        self._landing.close()
        if self._inlet:
            self._inlet.close()
        del self._llm  # its destructor shuts down again, which fails once the interpreter is on its way out
        _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=CLOSE_TIMEOUT_S)
        _kill(alive)
        for name in self._shared_names:
            shared_memory.unlink(name)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for root in self._roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                if root.status() != psutil.STATUS_ZOMBIE:
                    found += [root, *root.children(recursive=True)]
        return found

    @contextlib.contextmanager
    def _builtin_errors(self) -> Iterator[None]:
        """Turn vLLM's exceptions into ours: unpickling one elsewhere would import vllm there."""
        if self._closed:
            raise EngineDead("the engine is closed; build a new one")
        try:
            yield
        except EngineDeadError:
            raise EngineDead(self._dead or "the engine process died; its stack trace is in its log") from None
        except VLLMClientError as error:
            raise ValueError(str(error)) from None
        except VLLMError as error:
            raise RuntimeError(f"vLLM failed: {error.__cause__ or error}") from None


def _engine_args(
    model_dir: str, config: EngineConfig, context_length: int, seed: int, transport: Transport
) -> AsyncEngineArgs:
    on_cpu = current_platform.is_cpu()
    return AsyncEngineArgs(
        model=model_dir,
        skip_tokenizer_init=not (Path(model_dir) / "tokenizer_config.json").exists(),
        dtype=config.dtype,
        enforce_eager=config.eager,
        max_model_len=context_length,
        # One slot means that nothing shares a batch with an answer (`rollout.deterministic`): not a probe either.
        max_num_seqs=config.max_num_seqs + (PROBE_SLOTS if config.max_num_seqs > 1 else 0),
        scheduling_policy="priority",
        tensor_parallel_size=config.tensor_parallel,
        seed=seed,
        # The smallest block the CPU kernels take; their default of 128 would never cache a short prompt.
        block_size=32 if on_cpu else None,
        # Seeded sampling on CPU cannot take a draw back, and a prompt prefilled in chunks makes vLLM try: it dies.
        enable_chunked_prefill=False if on_cpu else None,
        kv_cache_memory_bytes=None if config.kv_cache_mb is None else config.kv_cache_mb << 20,
        # With a cache of a given size vLLM only looks whether this share is free: a learner rank may be there already.
        gpu_memory_utilization=_ALL_THERE_IS if config.kv_cache_mb is None else _NEXT_TO_NOTHING,
        enable_prefix_caching=config.prefix_caching,
        # The distribution that was really sampled: raw log-probs ignore the temperature.
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        use_tqdm_on_load=False,
        # vLLM notices a dead owner only once the engine is up: one killed before would leave a process for minutes.
        additional_config=Leash(),
        weight_transfer_config={"backend": transport if transport in PUSHED else vllm_worker.FileTransfer.BACKEND},
        worker_extension_cls=(
            "rollout.vllm_plain.PlainWorkerExtension"
            if on_cpu and not config.packed_weights
            else "rollout.vllm_worker.WorkerExtension"
        ),
    )


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _versions(starts: Sequence[tuple[str, int]], begin: int, end: int) -> list[int]:
    """Version number of tokens begin…end-1, given (label, first token) of each span."""
    numbers = [0 if label == _INITIAL_LABEL else int(label.split("/")[0]) for label, _ in starts]
    firsts = [first for _, first in starts]
    return [numbers[bisect.bisect_right(firsts, token) - 1] for token in range(begin, end)]
