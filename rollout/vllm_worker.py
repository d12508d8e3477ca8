"""The half of `rollout.vllm_engine` that lives in the engine process: it takes weights out of a file in memory.

vLLM imports this module there because `worker_extension_cls` names a class of it; that registers the transfer. On a CPU
there are two ways to hold a matrix: packed by oneDNN, which is faster to compute with and has to be packed again for
every version, or plain, which new weights are copied into where it lies.
"""

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers import utils as layer_utils
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rollout.memory_file import forget_mappings, mapped
from rollout.weight_sums import THREADS, side_by_side, sums_in
from rollout.weights import TensorSpec, WeightLayout


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

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Nothing to do."""

    def start_weight_update(self) -> None:
        """Bring packed weights back to the shape that checkpoints have."""
        if not _are_plain():
            initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Load views of the file; the model fuses and packs them as it does at start-up."""
        file = torch.from_numpy(mapped(update_info.path, update_info.nbytes))
        specs = [TensorSpec(**fields) for fields in update_info.tensors]
        views = [(spec.name, _view(file, spec)) for spec in specs]
        if _are_plain():
            side_by_side(self.model.load_weights, _shares(views))
        else:
            self.model.load_weights(views)

    def finish_weight_update(self) -> None:
        """Finish the layers that are packed."""
        if _are_plain():
            return
        finalize_layerwise_reload(self.model, self.model_config)
        head = getattr(self.model, "lm_head", None)
        if head is not None and hasattr(head, "cpu_linear"):
            # On CPU the head computes with a packed copy, which the reload of a tied embedding does not renew.
            head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """Let go of the files."""
        forget_mappings()


def _shares(views: list[tuple[str, torch.Tensor]]) -> list[list[tuple[str, torch.Tensor]]]:
    """Neighbours together, and about as many bytes for each thread."""
    share_of = sum(view.nbytes for _, view in views) / THREADS
    shares: list[list[tuple[str, torch.Tensor]]] = [[] for _ in range(THREADS)]
    filled = 0
    for name, view in views:
        shares[min(int(filled / share_of), THREADS - 1)].append((name, view))
        filled += view.nbytes
    return shares


def _view(file: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    return file[spec.offset : spec.offset + spec.nbytes].view(getattr(torch, spec.dtype)).view(tuple(spec.shape))


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
