"""What the learner's carriers say is what vLLM's own weight-transfer engines read. Starts no engine."""

import inspect

import pytest
import torch

from rollout.transports import PUSHED
from rollout.weights import WeightLayout
from trainer.carriers import IpcCarrier, NcclCarrier

pytestmark = [
    pytest.mark.engine,
    # What vllm and torch warn of when imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

LAYOUT = WeightLayout.of([("embed", "float32", (5, 4)), ("norm", "bfloat16", (4,))])
TENSORS = {"embed": torch.zeros(5, 4), "norm": torch.zeros(4, dtype=torch.bfloat16)}


def test_vllm_knows_both_transports_by_their_names():
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    assert set(PUSHED) <= set(WeightTransferEngineFactory._registry)


def test_vllm_reads_the_facts_of_a_group_and_of_an_update():
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine as Nccl

    carrier = NcclCarrier("127.0.0.1", 2, torch.device("cpu"), lambda *_: pytest.fail("not to be opened"))
    init = Nccl.init_info_cls(**carrier.init_info)
    assert (init.rank_offset, init.world_size, init.master_address, init.packed) == (1, 3, "127.0.0.1", True)
    update = Nccl.update_info_cls(**carrier.update_info(LAYOUT, TENSORS))
    assert [getattr(torch, name) for name in update.dtype_names] == [torch.float32, torch.bfloat16]


def test_vllm_reads_ipc_handles_only_where_unpickling_is_allowed(monkeypatch):
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine as Ipc

    from rollout.engine_env import SHARED_GPU_ENGINE_ENV

    carrier = IpcCarrier("GPU-1", lambda tensor: (torch.Tensor, tuple(tensor.shape), b"handle"))
    assert Ipc.init_info_cls(**carrier.init_info).packed is False
    info = carrier.update_info(LAYOUT, TENSORS)
    monkeypatch.delenv("VLLM_ALLOW_INSECURE_SERIALIZATION", raising=False)
    with pytest.raises(ValueError, match="VLLM_ALLOW_INSECURE_SERIALIZATION"):
        Ipc.update_info_cls(**info)
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", SHARED_GPU_ENGINE_ENV["VLLM_ALLOW_INSECURE_SERIALIZATION"])
    update = Ipc.update_info_cls(**info)
    assert update.ipc_handles == [
        {"GPU-1": (torch.Tensor, (5, 4), b"handle")},
        {"GPU-1": (torch.Tensor, (4,), b"handle")},
    ]


def test_what_the_learner_calls_of_vllm_takes_those_arguments():
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
    from vllm.distributed.utils import StatelessProcessGroup
    from vllm.distributed.weight_transfer.packed_tensor import pack_tensors
    from vllm.v1.engine.async_llm import AsyncLLM

    import rollout.vllm_group as group

    device = torch.device("cuda", 0)
    inspect.signature(StatelessProcessGroup.create).bind("h", 1, 0, 2, store_timeout=group.STORE_TIMEOUT_S)
    inspect.signature(PyNcclCommunicator.__init__).bind(None, "store", device)
    inspect.signature(PyNcclCommunicator.broadcast).bind(None, "tensor", 0, "stream")
    package = pack_tensors(iter(TENSORS.items()), lambda item: item[1], 1 << 20)
    assert package.packed_tensor.numel() == 5 * 4 * 4 + 4 * 2
    assert pack_tensors(iter(()), lambda item: item[1], 1 << 20) is None
    for method in ("init_weight_transfer_engine", "update_weights"):
        inspect.signature(getattr(AsyncLLM, method)).bind(None, "request")
    inspect.signature(AsyncLLM.shutdown_weight_transfer_engine).bind(None)
    assert callable(PyNcclCommunicator.destroy)
