"""The parts of a run that are modelled: engine, learner, verifiers. Everything else in a world is the shipped code."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import arithmetic
import numpy as np
from disk import Mount
from network import Network

from rollout.engine import WeightsDisagree
from rollout.records import FloatArray, GenerationRequest, IntArray, Segment, TrainingBatch
from rollout.weights import WeightLayout, WeightSlot
from trainer.directories import NotWritten
from verifiers.records import ScoreRequest, Verdict

SharedMemory = dict[str, int]
"""Path of a weight slot → the weights in it."""

_LAYOUT = WeightLayout.of([("weights", "float32", (1,))])


class FakeEngine:
    """Samples `arithmetic.token` at its own pace; loads weights under requests in flight."""

    def __init__(
        self, shared: SharedMemory, draw: random.Random, token_s: float, refuses: Callable[[], bool] = lambda: False
    ) -> None:
        """`refuses` says whether the checksums of a version that it is given are wrong."""
        self.version = 0
        self._weights = arithmetic.START
        self._shared = shared
        self._random = draw
        self._token_s = token_s
        self._refuses = refuses
        self._aborted: set[str] = set()
        self._running: set[str] = set()
        self._loaded = asyncio.Event()
        self._loaded.set()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Segment]:
        known = request.prompt_ids[arithmetic.PROMPT_LENGTH :].tolist()
        place, left = len(known), request.max_new_tokens
        before = known[-1] if known else arithmetic.opening(request.seed)
        length = arithmetic.answer_length(known[0]) if known else 0
        self._running.add(request.id)
        try:
            while True:
                burst = 1 + int(self._random.random() * 4)
                await asyncio.sleep(burst * self._token_s)
                await self._loaded.wait()
                if request.id in self._aborted:
                    yield Segment.of([], [], [], "abort")
                    return
                tokens: list[int] = []
                reason = None
                while len(tokens) < burst and reason is None:
                    before = arithmetic.token(before, place, self._weights)
                    length = length or arithmetic.answer_length(before)
                    tokens.append(before)
                    place += 1
                    left -= 1
                    reason = "stop" if place >= length else "length" if left == 0 else None
                yield Segment.of(tokens, [-0.5] * len(tokens), [self.version] * len(tokens), reason)
                if reason:
                    return
        finally:
            self._running.discard(request.id)
            self._aborted.discard(request.id)

    async def abort(self, request_id: str) -> None:
        if request_id in self._running:
            self._aborted.add(request_id)

    pause_s, slots = 0.0, 64

    async def load_weights(self, slot: WeightSlot) -> None:
        self._loaded.clear()
        try:
            await asyncio.sleep(self._random.random() * 0.05)
            if self._refuses():
                raise WeightsDisagree("checksums differ")
            self._weights = self._shared[slot.path]
            self.version = slot.version
        finally:
            self._loaded.set()

    async def logprobs(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        return [_probe(self._weights)]

    def pids(self) -> list[int]:
        return [1]

    async def close(self) -> None: ...


class FakeLearner:
    """Weights are what was trained, folded into a number; a checkpoint is that number, and the steps behind it."""

    def __init__(
        self,
        disk: Mount,
        relative: Callable[[str], str],
        shared: SharedMemory,
        draw: random.Random,
        unstable: bool = False,
    ) -> None:
        """`relative` makes a name on `disk` of a directory that the controller names."""
        self._disk = disk
        self._relative = relative
        self._shared = shared
        self._random = draw
        self._unstable = unstable
        self._weights = arithmetic.START
        self._steps: list[int] = []
        self._writing: asyncio.Task[None] | None = None

    async def begin_phase(self, weights: str | None, optim: object, total_steps: int) -> str:
        if weights is None:
            self._weights, self._steps = arithmetic.START, []
        else:
            await self._load(weights)
        return await self.weights_hash()

    async def merge(self, sources: Sequence[tuple[str, float]]) -> str:
        parts = []
        for directory, share in sources:
            await self._load(directory)
            parts.append((self._weights, share))
        await self._load(sources[0][0])
        self._weights = arithmetic.merged(parts)
        return await self.weights_hash()

    async def resume(self, directory: str, began_from: str | None, optim: object, total_steps: int) -> None:
        await self._load(directory)

    async def step(self, batch: TrainingBatch, objective: str) -> dict[str, float]:
        await asyncio.sleep(0.05 + 0.5 * self._random.random())
        digest = arithmetic.digest_of(batch)
        bad = self._unstable and digest % 3 == 0
        if bad and objective == "rft":
            return {"skipped": 1.0}
        self._weights = arithmetic.trained(self._weights, digest)
        self._steps.append(digest)
        return {"loss": 0.0, "mismatch_kl": 9.0 if bad else 0.0, "entropy": arithmetic.entropy(digest)}

    async def nll(self, batch: TrainingBatch) -> float:
        return (self._weights ^ arithmetic.digest_of(batch)) % 97 / 97

    async def layout(self) -> WeightLayout:
        return _LAYOUT

    async def stage(self, slot: WeightSlot) -> None:
        await asyncio.sleep(0.01)
        self._shared[slot.path] = self._weights

    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        return [_probe(self._weights)]

    async def weights_hash(self) -> str:
        return f"{self._weights:016x}"

    async def save(self, directory: str, optimizer: bool) -> None:
        state = json.dumps({"weights": self._weights, "steps": self._steps}).encode()
        await asyncio.sleep(0.01)
        self._writing = asyncio.create_task(self._write(self._relative(directory), state))

    async def saved(self, timeout_s: float) -> bool:
        if self._writing and timeout_s:
            await asyncio.wait((self._writing,), timeout=timeout_s)
        if self._writing is None or not self._writing.done():
            return self._writing is None
        writing, self._writing = self._writing, None
        writing.result()
        return True

    async def _write(self, name: str, state: bytes) -> None:
        """It takes a part of a step, or several steps."""
        await asyncio.sleep(2 * self._random.random() ** 2)
        try:
            await asyncio.to_thread(self._disk.replace, name, state)
        except OSError as error:
            raise NotWritten(f"checkpoint {name} could not be written: {error}") from error

    async def export(self, directory: str) -> None: ...

    async def _load(self, directory: str) -> None:
        data = await asyncio.to_thread(self._disk.read, self._relative(directory))
        state: dict[str, Any] = json.loads(bytes(data))
        self._weights, self._steps = state["weights"], state["steps"]


class FakeVerifiers:
    """Scores an answer by a hash of it; some answers of training break it."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Verdict]:
        await asyncio.sleep(self._network.random.random() * 0.05)
        return [verdict(request.prompt, request.response) for request in requests]


def verdict(prompt: str, response: str) -> Verdict:
    """What the verifiers say of an answer, always the same."""
    reward = arithmetic.reward(response)
    if reward is None and prompt.startswith("train"):
        return Verdict(None, "error", "fake", "1", feedback="it broke")
    return Verdict(reward or 0.0, "correct" if reward else "wrong", "fake", "1")


def _probe(weights: int) -> FloatArray:
    return np.array([weights % 65_521], np.float32)
