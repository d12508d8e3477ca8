"""The half of `rollout.vllm_engine` that lives in the engine process: it takes weights out of a file in memory.

vLLM imports this module there because `worker_extension_cls` names a class of it; that registers the transfer. On a CPU
there are two ways to hold a matrix: packed by oneDNN, which is faster to compute with and has to be packed again for
every version, or plain: then the engine computes with the matrices where they lie in the file. Experts are always
packed, so a model that has some takes all of its weights by the first way.
"""

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers import utils as layer_utils
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform

from rollout.adoption import Adoption, view
from rollout.memory_file import forget_mappings, mapped
from rollout.weight_sums import sums_in
from rollout.weights import TensorSpec, WeightLayout

# Its own lock, made with the first bar, has a name in /dev/shm, which stays there when the process is killed.
tqdm.set_lock(threading.RLock())


@dataclass
class NoInit(WeightTransferInitInfo):
    """There is nothing to agree on beforehand: each update names its file."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """One version of all weights in a file in memory."""

    path: str
    nbytes: int
    tensors: list[dict[str, Any]]
    """Fields of `rollout.weights.TensorSpec`."""


class FileTransfer(WeightTransferEngine[NoInit, FileUpdate]):
    """vLLM's worker side of a weight update: maps the file and lets the model load views of it."""

    BACKEND = "rloop-file"
    init_info_cls = NoInit
    update_info_cls = FileUpdate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._adoption: Adoption | None = None
        self._adopted: list[TensorSpec] = []

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Nothing to do."""

    def start_weight_update(self) -> None:
        """Bring packed weights back to the shape that checkpoints have."""
        if self._in_place:
            return
        if current_platform.is_cpu():
            for experts in self._experts():
                experts.quant_method.moe_kernel = None  # an update would leave it as it is, and packing goes with it
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Load views of the file, which the model fuses and packs as it does at start-up; or adopt them as they are."""
        file = torch.from_numpy(mapped(update_info.path, update_info.nbytes))
        specs = [piece for fields in update_info.tensors for piece in TensorSpec(**fields).pieces()]
        if not self._in_place:
            self.model.load_weights((spec.name, view(file, spec)) for spec in specs)
        elif self._adoption is None:
            self._adoption, self._adopted = Adoption(self.model, self.model.load_weights, file, specs), specs
        elif specs == self._adopted:
            self._adoption.take(file)
        else:
            raise ValueError("an engine with plain weights takes one layout for life; start a new engine for another")

    def finish_weight_update(self) -> None:
        """Finish the layers that are packed."""
        if self._in_place:
            return
        finalize_layerwise_reload(self.model, self.model_config)
        head = getattr(self.model, "lm_head", None)
        if head is not None and hasattr(head, "cpu_linear"):
            # On CPU the head computes with a packed copy, which the reload of a tied embedding does not renew.
            head.quant_method.process_weights_after_loading(head)

    @cached_property
    def _in_place(self) -> bool:
        return _are_plain() and not self._experts()

    def _experts(self) -> list[RoutedExperts]:
        return [module for module in self.model.modules() if isinstance(module, RoutedExperts)]

    def shutdown(self) -> None:
        """Let go of the files."""
        forget_mappings()


class WorkerExtension:
    """What vLLM's worker can be asked besides its own methods. Naming it imports this module in the engine process."""

    def sums_of_weights(self, path: str, nbytes: int, tensors: list[dict[str, Any]]) -> list[int]:
        """Checksums (see `rollout.weight_sums`) of the file as this process reads it; the engine stays as it is."""
        layout = WeightLayout(tuple(TensorSpec(**fields) for fields in tensors), nbytes)
        return sums_in(mapped(path, nbytes), layout).tolist()


def leave_matrices_plain() -> None:
    """Make vLLM, in this process and from now on, compute with matrices as they are. For engines on CPU."""
    layer_utils.dispatch_cpu_unquantized_gemm = _leave_plain


def _leave_plain(layer: torch.nn.Module, remove_weight: bool) -> None:
    """In the place of vLLM's choice of a packed format."""
    layer.cpu_linear = torch.nn.functional.linear


def _are_plain() -> bool:
    return layer_utils.dispatch_cpu_unquantized_gemm is _leave_plain


WeightTransferEngineFactory.register_engine(FileTransfer.BACKEND, FileTransfer)
