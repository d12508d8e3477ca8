"""The learner's sender and an engine's inlet over real sockets, with a fake in the place of NCCL."""

import asyncio
import base64
import dataclasses
import pickle
import time
import weakref
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import pytest
import torch

from rollout.engine import WeightsMissing
from rollout.transports import choose
from rollout.weight_inlet import WeightInlet
from rollout.weights import RowSource, WeightLayout, WeightSlot
from trainer.carriers import PACKED_BYTES, IpcCarrier, NcclCarrier
from trainer.config import TrainerConfig
from trainer.learner import LearnerRank
from trainer.rendezvous import free_port
from trainer.shelves import make_shelf
from trainer.weight_sender import WeightSender
from trainer.whole_shelf import WholeShelf

from .fake_group import FakeEngine, FakeNccl

CPU = torch.device("cpu")
LAYOUT = WeightLayout.of([("embed", "float32", (5, 4)), ("norm", "bfloat16", (4,))])


def weights(version: int) -> dict[str, torch.Tensor]:
    return {"embed": torch.full((5, 4), float(version)), "norm": torch.full((4,), version + 0.5, dtype=torch.bfloat16)}


@pytest.fixture
def nccl() -> FakeNccl:
    return FakeNccl()


@pytest.fixture
def sender(nccl: FakeNccl) -> Iterator[WeightSender]:
    carrier = partial(NcclCarrier, "127.0.0.1", device=CPU, open_group=nccl.open_group)
    made = WeightSender("127.0.0.1", lambda workers: carrier(workers))
    yield made
    made.close()
    made.close()


def offer(sender: WeightSender, version: int) -> WeightSlot:
    """The slot of a version that is staged now."""
    side = version % 2
    sender.withdraw(side)
    sender.offer(side, version, LAYOUT, weights(version))
    return WeightSlot("", dataclasses.replace(LAYOUT, sources=(sender.source,)), version, side)


def inlet_of(engine: FakeEngine, workers: int = 1, timeout_s: float = 1.0, neighbour: int | None = None) -> WeightInlet:
    return WeightInlet(engine.join, workers, timeout_s, neighbour)


def until(condition, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has(engine: FakeEngine, version: int) -> bool:
    return all(torch.equal(engine.weights[name], tensor) for name, tensor in weights(version).items())


def test_an_engine_joins_once_and_then_takes_version_after_version_while_it_is_paused(nccl, sender):
    async def run():
        engine = FakeEngine(nccl)
        inlet = inlet_of(engine, workers=2)
        for version in (1, 2, 3):
            await engine.load(inlet, offer(sender, version))
            assert has(engine, version)
        inlet.close()

    asyncio.run(run())
    assert sorted(nccl.calls[:2]) == ["join", "open 3"]  # one end waits for the other
    for first in (2, 6, 10):
        pause, *together, finish = nccl.calls[first : first + 4]
        assert (pause, sorted(together), finish) == ("pause", ["broadcast", "update_weights"], "finish")


def test_engines_have_a_group_each_so_their_equal_ranks_do_not_collide(nccl, sender):
    async def run():
        engines = [FakeEngine(nccl), FakeEngine(nccl)]
        inlets = [inlet_of(engine, workers) for engine, workers in zip(engines, (1, 4), strict=True)]
        slot = offer(sender, 1)
        await asyncio.gather(*(engine.load(inlet, slot) for engine, inlet in zip(engines, inlets, strict=True)))
        for inlet in inlets:
            inlet.close()
        return [engine.joined[0] for engine in engines]

    small, large = asyncio.run(run())
    assert small["master_port"] != large["master_port"]
    assert [(facts["rank_offset"], facts["world_size"]) for facts in (small, large)] == [(1, 2), (1, 5)]
    assert small["packed"] is True
    assert small["packed_buffer_size_bytes"] == PACKED_BYTES


def test_a_newcomer_gets_the_version_that_the_others_have_while_the_next_is_staged_already(nccl, sender):
    async def run():
        current = offer(sender, 4)
        offer(sender, 5)
        engine = FakeEngine(nccl)
        await engine.load(inlet := inlet_of(engine), current)
        assert has(engine, 4)
        inlet.close()

    asyncio.run(run())


def test_a_version_that_is_not_staged_is_refused_before_the_engine_pauses(nccl, sender):
    async def run():
        engine = FakeEngine(nccl)
        inlet = inlet_of(engine)
        slot = offer(sender, 6)
        with pytest.raises(WeightsMissing, match=r"version 9 is not staged here, only \[6\]"):
            await engine.load(inlet, dataclasses.replace(slot, version=9))
        assert "pause" not in nccl.calls
        await engine.load(inlet, slot)
        assert has(engine, 6)
        inlet.close()

    asyncio.run(run())


def test_an_engine_that_is_closed_between_asking_and_hearing_says_that_the_weights_are_missing(nccl, sender):
    async def run():
        inlet = inlet_of(FakeEngine(nccl))
        await inlet.announced(offer(sender, 1))
        inlet.close()
        with pytest.raises(WeightsMissing, match="left the group"):
            await inlet.sent(1)

    asyncio.run(run())


def test_an_engine_that_dies_half_way_is_let_go_at_once_and_the_others_are_served(nccl, sender):
    async def run():
        dead, alive = FakeEngine(nccl, takes=False), FakeEngine(nccl)
        slot = offer(sender, 1)
        inlet = inlet_of(dead)
        loading = asyncio.create_task(dead.load(inlet, slot))
        await asyncio.to_thread(until, lambda: "broadcast" in nccl.calls)
        inlet.close()  # as the operating system does for a dead process
        with pytest.raises(WeightsMissing):
            await loading
        group = nccl.group(dead.joined[0]["master_port"])
        await asyncio.to_thread(until, group.aborted.is_set, 0.9)  # before the deadline
        await alive.load(other := inlet_of(alive), offer(sender, 2))
        assert has(alive, 2)
        other.close()

    asyncio.run(run())


def test_an_engine_that_takes_nothing_is_given_up_at_the_deadline_and_comes_back_with_a_new_group(nccl, sender):
    async def run():
        engine = FakeEngine(nccl, takes=False)
        inlet = inlet_of(engine)
        slot = offer(sender, 1)
        began = time.monotonic()
        with pytest.raises(WeightsMissing, match="sending version 1: not done in 1 s"):
            await engine.load(inlet, slot)
        assert 0.9 < time.monotonic() - began < 5
        first = engine.joined[0]["master_port"]
        assert nccl.group(first).aborted.is_set()
        engine._takes = True
        await engine.load(inlet, slot)
        assert has(engine, 1)
        assert engine.joined[1]["master_port"] != first
        inlet.close()

    asyncio.run(run())


def test_a_failure_of_the_sender_reaches_the_engine_with_its_reason(nccl, sender):
    async def run():
        engine = FakeEngine(nccl, takes=False)
        inlet = inlet_of(engine)
        slot = offer(sender, 1)
        await inlet.announced(slot)
        nccl.group(engine.joined[0]["master_port"]).broken = "NCCL error: unhandled cuda error"
        with pytest.raises(WeightsMissing, match="sending failed: RuntimeError: NCCL error: unhandled cuda error"):
            await inlet.sent(1)

    asyncio.run(run())


def test_a_version_that_is_overwritten_while_it_is_sent_does_not_count_as_sent(nccl, sender):
    async def run():
        engine = FakeEngine(nccl, takes=False)
        inlet = inlet_of(engine)
        await inlet.announced(offer(sender, 1))
        sending = asyncio.create_task(inlet.sent(1))
        await asyncio.to_thread(until, lambda: "broadcast" in nccl.calls)
        offer(sender, 3)
        group = nccl.group(engine.joined[0]["master_port"])
        for _ in LAYOUT.tensors:
            group.take()
        with pytest.raises(WeightsMissing, match="version 1 was overwritten while it was sent"):
            await sending

    asyncio.run(run())


def test_a_learner_that_is_a_new_process_is_joined_anew(nccl, sender):
    async def run():
        engine = FakeEngine(nccl)
        inlet = inlet_of(engine)
        await engine.load(inlet, offer(sender, 1))
        sender.close()
        carrier = partial(NcclCarrier, "127.0.0.1", device=CPU, open_group=nccl.open_group)
        successor = WeightSender("127.0.0.1", lambda workers: carrier(workers))
        await engine.load(inlet, offer(successor, 2))
        assert has(engine, 2)
        assert len(engine.joined) == 2
        inlet.close()
        successor.close()

    asyncio.run(run())


def test_an_engine_whose_workers_cannot_join_says_so_and_does_not_wait_for_the_sender(nccl, sender):
    class Broken(FakeEngine):
        async def join(self, init_info):
            raise RuntimeError("the workers did not join")

    async def run():
        with pytest.raises(RuntimeError, match="the workers did not join"):
            await inlet_of(Broken(nccl)).announced(offer(sender, 1))

    asyncio.run(run())


def test_who_does_not_know_the_token_gets_nothing(nccl, sender):
    async def run():
        slot = offer(sender, 1)
        stranger = dataclasses.replace(sender.source, token="guess")
        slot = dataclasses.replace(slot, layout=dataclasses.replace(slot.layout, sources=(stranger,)))
        with pytest.raises(WeightsMissing, match="the token is wrong"):
            await inlet_of(FakeEngine(nccl)).announced(slot)
        assert nccl.calls == []

    asyncio.run(run())


def test_a_layout_with_the_sources_of_another_transport_is_refused(nccl, sender):
    slot = offer(sender, 1)
    slot = dataclasses.replace(slot, layout=dataclasses.replace(slot.layout, sources=(sender.source,) * 2))
    with pytest.raises(
        ValueError, match=r"one learner rank pushes weights .* got 2 sources; .* actors\.weight_transport"
    ):
        asyncio.run(inlet_of(FakeEngine(nccl)).announced(slot))
    with pytest.raises(ValueError, match=r"learner rank 2 must push weights to this engine, got 2 sources"):
        asyncio.run(inlet_of(FakeEngine(nccl), neighbour=2).announced(slot))


def test_an_engine_takes_its_weights_from_the_rank_beside_it(nccl, sender):
    slot, nobody = offer(sender, 7), RowSource("127.0.0.1", free_port(), "token")
    slot = dataclasses.replace(slot, layout=dataclasses.replace(slot.layout, sources=(nobody, sender.source)))

    async def run():
        engine = FakeEngine(nccl)
        await engine.load(inlet := inlet_of(engine, neighbour=1), slot)
        inlet.close()
        assert engine.weights.keys() == weights(7).keys()
        with pytest.raises(WeightsMissing):
            await inlet_of(FakeEngine(nccl), neighbour=0).announced(slot)

    asyncio.run(run())


def test_a_learner_pushes_what_it_staged_while_it_trains_on(nccl, model_dir):
    learner = LearnerRank(
        0,
        1,
        model_dir,
        TrainerConfig(compute_dtype="float32"),
        publish_dtype="bfloat16",
        weight_transport="nccl",
        open_group=nccl.open_group,
    )
    learner.connect("127.0.0.1", free_port(), 30)
    slot = WeightSlot("", learner.layout(), 1)
    staged = {name: p.full_tensor().detach().bfloat16() for name, p in learner.policy.model.items()}
    learner.stage(slot)
    with torch.no_grad():
        for shard in learner.policy.shards().values():
            shard.add_(1.0)  # a step

    async def run():
        engine = FakeEngine(nccl)
        await engine.load(inlet := inlet_of(engine), slot)
        inlet.close()
        return engine.weights

    arrived = asyncio.run(run())
    learner.close()
    assert arrived.keys() == staged.keys()
    assert all(torch.equal(arrived[name], tensor) for name, tensor in staged.items())


class Parameter:
    """A sharded parameter that notices when two are whole at once."""

    whole: ClassVar[list[weakref.ref]] = []

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def to(self, dtype):
        return self

    def full_tensor(self):
        assert all(ref() is None for ref in self.whole)
        tensor = torch.ones(self.shape)
        self.whole.append(weakref.ref(tensor))
        return tensor


def test_no_two_parameters_are_whole_at_once(sender):
    shelf = WholeShelf(sender, CPU)
    shelf.put({"embed": Parameter(5, 4), "norm": Parameter(4)}, WeightSlot("", LAYOUT, 1), 0, 2)
    assert len(Parameter.whole) == 2
    with pytest.raises(ValueError, match="a weight layout must list the learner's tensors, got 1 that differ"):
        shelf.put({"embed": Parameter(5, 4)}, WeightSlot("", LAYOUT, 2), 0, 2)
    shelf.close()


def test_ipc_handles_are_exported_anew_for_each_update_in_the_order_of_the_layout():
    exported = []

    def export(tensor):
        exported.append(tensor)
        return ("handle", len(exported))

    carrier = IpcCarrier("GPU-1", export)
    tensors = weights(3)
    for done in (0, 2):
        info = carrier.update_info(LAYOUT, tensors)
        assert (info["names"], info["dtype_names"]) == (["embed", "norm"], ["float32", "bfloat16"])
        assert info["shapes"] == [[5, 4], [4]]
        handles = pickle.loads(base64.b64decode(info["ipc_handles_pickled"]))
        assert handles == [{"GPU-1": ("handle", done + 1)}, {"GPU-1": ("handle", done + 2)}]
    assert [tensor is tensors[name] for name, tensor in zip(["embed", "norm"], exported, strict=False)] == [True, True]


def test_transports_that_cannot_work_are_refused_with_the_way_out(nccl):
    with pytest.raises(ValueError, match=r"nccl needs a learner that is given open_group"):
        make_shelf("nccl", 0, "127.0.0.1", CPU, None)
    with pytest.raises(ValueError, match="ipc works on a GPU that learner rank and engine share, got cpu"):
        make_shelf("ipc", 0, "127.0.0.1", CPU, None)
    with pytest.raises(ValueError, match="works between different GPUs, got none; use auto"):
        choose("nccl", one_host=False)
    with pytest.raises(ValueError, match="got one that learner and engine share"):
        choose("nccl", one_host=True, on_gpu=True, shared_gpu=True)
    with pytest.raises(ValueError, match="share one GPU; use auto"):
        choose("ipc", one_host=True, on_gpu=True)
    assert choose("nccl", one_host=False, on_gpu=True) == "nccl"
    assert choose("auto", one_host=False, on_gpu=True) == "tcp"
    helper = make_shelf("nccl", 1, "127.0.0.1", CPU, nccl.open_group)
    assert isinstance(helper, WholeShelf)
    assert helper.sources == ()
