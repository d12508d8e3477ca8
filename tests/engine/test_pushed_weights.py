"""The real engine takes weights that the learner's sender pushes; a twin of NCCL on CPU carries them."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from rollout.engine import EngineDead, WeightsMissing
from rollout.weights import WeightSlot
from trainer.carriers import NcclCarrier
from trainer.weight_sender import WeightSender

from .conftest import CONTEXT_LENGTH, PLAIN_CONFIG, Reference

pytestmark = [
    pytest.mark.engine,
    # What vllm and torch warn of when imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PROBE = [np.random.default_rng(5).integers(10, 200, 30).astype(np.int32)]


class TwinGroup:
    """Rank 0's end."""

    broken = ""

    def __init__(self, host: str, port: int, size: int, device: torch.device) -> None:
        from vllm.distributed.utils import StatelessProcessGroup

        self._group = StatelessProcessGroup.create(host, port, 0, size, store_timeout=20)

    def broadcast(self, tensors: Iterable[tuple[str, torch.Tensor]], packed_bytes: int, packed_buffers: int) -> None:
        if self.broken:
            raise RuntimeError(self.broken)
        for _, tensor in tensors:
            self._group.broadcast(tensor, src=0)

    def abort(self) -> None: ...


class Learner:
    def __init__(self, model_dir: Path) -> None:
        self.reference = Reference(model_dir)
        self.restart()

    def restart(self) -> None:
        self.sender = WeightSender(
            "127.0.0.1", lambda workers: NcclCarrier("127.0.0.1", workers, torch.device("cpu"), TwinGroup)
        )

    def stage(self) -> WeightSlot:
        slot = self.reference.stage_new_weights()
        tensors = {name: p.detach().clone() for name, p in self.reference.model.named_parameters()}
        self.sender.offer(slot.version % 2, slot.version, slot.layout, tensors)
        return replace(slot, path="", layout=replace(slot.layout, sources=(self.sender.source,)))

    def close(self) -> None:
        self.sender.close()
        self.reference.close()


@pytest.fixture
def learner(model_dir):
    made = Learner(model_dir)
    yield made
    made.close()


@pytest.fixture
def pushed_engine(model_dir, make_engine, tmp_path, monkeypatch, run):
    facts = tmp_path / "twin_nccl-0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: twin-nccl\nVersion: 0\n")
    (facts / "entry_points.txt").write_text("[vllm.general_plugins]\ntwin_nccl = twin_nccl:register\n")
    # A spawned process gets its parent's path; where it finds a plug-in's facts, vLLM loads it.
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(Path(__file__).with_name("twin")), *sys.path])
    from rollout.vllm_engine import VllmEngine

    made = VllmEngine(str(model_dir), PLAIN_CONFIG, CONTEXT_LENGTH, 0, transport="nccl")
    yield made
    run(made.close())


def off_by(engine, learner, run) -> float:
    (found,) = run(engine.logprobs(PROBE))
    return float(np.abs(found - learner.reference.logprobs(PROBE[0])[np.arange(29), PROBE[0][1:]]).max())


def test_an_engine_takes_pushed_versions_from_one_learner_and_its_successor_and_dies_of_half_a_one(
    pushed_engine, learner, run
):
    for _ in range(2):
        slot = learner.stage()
        run(pushed_engine.load_weights(slot))
        assert pushed_engine.version == slot.version
        assert off_by(pushed_engine, learner, run) < 1e-4
    with pytest.raises(WeightsMissing, match=r"version 9 is not staged here, only \[2, 1\]|only \[1, 2\]"):
        run(pushed_engine.load_weights(replace(slot, version=9)))
    assert off_by(pushed_engine, learner, run) < 1e-4
    learner.sender.close()
    learner.restart()
    slot = learner.stage()
    run(pushed_engine.load_weights(slot))
    assert pushed_engine.version == 3
    assert off_by(pushed_engine, learner, run) < 1e-4
    TwinGroup.broken = "NCCL error: unhandled system error"
    processes = [psutil.Process(pid) for pid in pushed_engine.pids()]
    with pytest.raises(EngineDead, match=r"loading version 4 failed half way: .* unhandled system error"):
        run(pushed_engine.load_weights(learner.stage()))
    assert not psutil.wait_procs(processes, timeout=10)[1]
