"""One engine per KV mode for the whole session: start-up is what these tests cost. Versions only grow over it.

Each engine has its own learner side, so that what one test loads into one engine never surprises the other.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from rollout import shared_memory
from rollout.config import EngineConfig
from rollout.engine_env import ENGINE_ENV
from rollout.memory_file import MemoryFile, mapped
from rollout.weight_sums import checksum, promise
from rollout.weights import WeightLayout, WeightSlot

CONTEXT_LENGTH = 256
ENGINE_CONFIG = EngineConfig(kv_cache_mb=32, max_num_seqs=12)
# Room for more sequences than the KV cache holds: some are always preempted.
RECOMPUTE_CONFIG = EngineConfig(kv_cache_mb=16, max_num_seqs=64, kv_on_update="recompute")

PLAIN_CONFIG = EngineConfig(kv_cache_mb=32, max_num_seqs=12, packed_weights=False)


def perturb(model: Any, seed: int, scale: float = 0.1) -> None:
    """Move every parameter by noise, so that versions differ by far more than the tolerance.

    The end-of-sequence token keeps logit 0: never the greedy choice, now and then a sampled one.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
        model.get_input_embeddings().weight[model.config.eos_token_id] = 0.0


@pytest.fixture(scope="session")
def run() -> Iterator[Callable[[Awaitable[Any]], Any]]:
    with asyncio.Runner() as runner:
        yield lambda awaitable: runner.run(asyncio.wait_for(awaitable, 120))


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny tied Qwen3 with logits far from uniform."""
    from transformers import AutoModelForCausalLM

    from trainer.config import ScratchConfig
    from trainer.scratch import make_model

    directory = make_model(
        ScratchConfig(tokenizer="bytes"), tmp_path_factory.mktemp("engine") / "model", CONTEXT_LENGTH, seed=0
    )
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.config.tie_word_embeddings
    perturb(model, seed=1)
    model.save_pretrained(directory)
    return directory


class Reference:
    """The learner's side: a transformers model, its log-probs, and the files that carry its weights."""

    def __init__(self, model_dir: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
        self.layout = WeightLayout.of((name, "float32", tuple(p.shape)) for name, p in self.model.named_parameters())
        self._files = [MemoryFile(f"rloop-test-{side}", self.layout.nbytes) for side in "ab"]
        self.version = 0

    def stage_new_weights(self, version: int | None = None) -> WeightSlot:
        """Perturb the model and write it into the file whose turn it is, as the next version or as the one named."""
        self.version += 1
        version = self.version if version is None else version
        perturb(self.model, seed=100 + self.version)
        path = self._files[self.version % 2].path
        parameters = dict(self.model.named_parameters())
        file, sums = mapped(path, self.layout.nbytes), []
        for spec in self.layout.tensors:
            data = parameters[spec.name].detach().numpy().reshape(-1).view(np.uint8)
            file[spec.offset : spec.offset + spec.nbytes] = data
            sums.append(checksum(data))
        promise(file, self.layout, 0, version, sums)
        return WeightSlot(path, self.layout, version)

    def logprobs(self, token_ids: Any, temperature: float = 1.0) -> np.ndarray:
        """[L-1, vocab] log-softmax of logits / temperature."""
        import torch

        with torch.inference_mode():
            logits = self.model(torch.as_tensor(np.asarray(token_ids, np.int64))[None]).logits[0, :-1]
            return torch.log_softmax(logits / temperature, -1).numpy()

    def close(self) -> None:
        for file in self._files:
            file.close()


@pytest.fixture(scope="session")
def reference(model_dir: Path) -> Iterator[Reference]:
    made = Reference(model_dir)
    yield made
    made.close()


@pytest.fixture(scope="session")
def recompute_reference(model_dir: Path) -> Iterator[Reference]:
    made = Reference(model_dir)
    yield made
    made.close()


@pytest.fixture(scope="session")
def plain_reference(model_dir: Path) -> Iterator[Reference]:
    made = Reference(model_dir)
    yield made
    made.close()


@pytest.fixture(scope="session")
def make_engine(model_dir: Path) -> Callable[..., Any]:
    os.environ.update(ENGINE_ENV)
    from rollout.vllm_engine import VllmEngine

    def make(config: Any = ENGINE_CONFIG, but: Callable[[type], type] = lambda engine: engine) -> Any:
        return but(VllmEngine)(str(model_dir), config, CONTEXT_LENGTH, seed=0)

    return make


@pytest.fixture(scope="session")
def engine(make_engine: Callable[..., Any], run: Callable[[Awaitable[Any]], Any]) -> Iterator[Any]:
    yield from lifetime(make_engine, ENGINE_CONFIG, run)


@pytest.fixture(scope="session")
def recompute_engine(make_engine: Callable[..., Any], run: Callable[[Awaitable[Any]], Any]) -> Iterator[Any]:
    yield from lifetime(make_engine, RECOMPUTE_CONFIG, run)


@pytest.fixture(scope="session")
def plain_engine(make_engine: Callable[..., Any], run: Callable[[Awaitable[Any]], Any]) -> Iterator[Any]:
    yield from lifetime(make_engine, PLAIN_CONFIG, run)


def lifetime(
    make_engine: Callable[..., Any], config: EngineConfig, run: Callable[[Awaitable[Any]], Any]
) -> Iterator[Any]:
    """An engine that must leave nothing behind."""
    left = watch_shared_memory()
    made = make_engine(config)
    pids = made.pids()
    assert pids
    yield made
    run(made.close())
    run(made.close())
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not left()


def watch_shared_memory() -> Callable[[], set[str]]:
    """From now on: new semaphores and segments in /dev/shm, without those of the machine's other living processes."""

    def names() -> set[str]:
        return {entry.name for entry in os.scandir("/dev/shm") if not entry.is_dir()}

    before = names()

    def left() -> set[str]:
        new = names() - before
        for pid in set(psutil.pids()) - {os.getpid()}:
            with contextlib.suppress(OSError):
                new -= shared_memory.names_mapped_by(pid)
        return new

    return left


@pytest.fixture
def left_in_shared_memory() -> Callable[[], set[str]]:
    """Names in /dev/shm since the test began that no other living process uses."""
    return watch_shared_memory()


@pytest.fixture
def until() -> Callable[[Callable[[], bool], float], None]:
    """Wait for a condition, and fail when it does not hold in time."""

    def wait(condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"did not come true within {seconds} s"
            time.sleep(0.02)

    return wait
