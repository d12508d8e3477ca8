"""liger-kernel on GPUs: its fused norms, rotary embedding and MLP, and the output head fused with the cross-entropy.

Asked for by `trainer.fused_kernels`. Not run on a GPU so far; see docs/gpu.md.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel


def check_fused(device: torch.device) -> None:
    """Raise `ValueError` when liger-kernel cannot run here."""
    hindrance = f"they need a CUDA device, got {device.type}" if device.type != "cuda" else None
    try:
        import liger_kernel.transformers  # noqa: F401
    except ImportError as error:
        hindrance = hindrance or f"liger-kernel does not import ({error}); install rloop[gpu]"
    if hindrance:
        raise ValueError(f"trainer.fused_kernels cannot run here: {hindrance}; set it to false")


def fuse_layers(lm: PreTrainedModel) -> None:
    """Put liger's kernels into the layers of a model, where it knows the architecture; its loss is not touched."""
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(model=lm, cross_entropy=False, fused_linear_cross_entropy=False)


def fused_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
    """[n] float32 log-probs of the targets, see `trainer.logprobs.token_logprobs`; entropies it does not have."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    scaled = hidden if scale == 1 else hidden * scale
    losses: Tensor = liger_fused_linear_cross_entropy(
        scaled, weight, targets, reduction="none", accum_dtype=torch.float32
    )
    return -losses.float()
