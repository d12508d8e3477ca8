"""Low-rank adapters (LoRA 2106.09685): W + (alpha / r) · B A, with W frozen and only A and B trained.

peft puts them into the model. Engines and files get merged weights under the model's own names, one parameter at a time
and each rank its own rows: B is cut like W, and A is small enough to be whole on every rank. The adapters themselves
are exported beside, as peft loads them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from trainer.config import LoraConfig
from trainer.directories import atomic_directory
from trainer.rows import first_row

_BASE, _A, _B = ".base_layer", ".lora_A.default", ".lora_B.default"


def add_adapters(lm: PreTrainedModel, blocks: list[nn.Module], config: LoraConfig, frozen: torch.dtype) -> None:
    """Freeze the model, in the dtype `frozen`, and give its linear layers float32 adapters, all on the meta device.

    Raises:
        ValueError: No layer has one of the names in `targets`.
    """
    from peft import LoraConfig as PeftConfig  # slow to import, and most runs train the whole model
    from peft import inject_adapter_in_model

    linear = {name.rpartition(".")[2] for b in blocks for name, m in b.named_modules() if isinstance(m, nn.Linear)}
    if missing := set(config.targets) - linear:
        raise ValueError(
            f"trainer.lora.targets must name linear layers of the model, got {', '.join(sorted(missing))}; it has "
            f"{', '.join(sorted(linear))}"
        )
    targets = sorted(config.targets or linear)
    adapters = PeftConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, bias="none")
    inject_adapter_in_model(adapters, lm, low_cpu_mem_usage=True)
    for parameter in lm.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(frozen)


@torch.no_grad()
def start_adapters(trained: Mapping[str, DTensor], seed: int) -> None:
    """A uniform within ±1/√in (Kaiming with a = √5, as peft has it) and B zero: W as it was.

    The values follow from the seed and the parameter's place alone, whatever the number of ranks.
    """
    for number, (name, parameter) in enumerate(trained.items()):
        local = parameter.to_local()
        if _B in name:
            local.zero_()
        elif _A in name:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            bound = 1 / math.sqrt(parameter.shape[1])
            whole = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            mesh = parameter.device_mesh
            first = first_row(len(whole), mesh.get_local_rank(), mesh.size())
            local.copy_(whole[first : first + len(local)])


class MergedWeights(Mapping[str, DTensor]):
    """The model's tensors by their own names, adapters added; each is made when it is asked for.

    Making this is a collective; asking for a tensor is not.

    Args:
        model: Frozen parameters by the model's own names.
        adapters: Those of the adapters.
        scale: alpha / r.
    """

    def __init__(self, model: Mapping[str, DTensor], adapters: Mapping[str, DTensor], scale: float) -> None:
        self._model = model
        self._b = {name.replace(_B, ""): p for name, p in adapters.items() if _B in name}
        self._scale = scale
        with torch.no_grad():
            self._a = {name.replace(_A, ""): p.full_tensor() for name, p in adapters.items() if _A in name}

    def __getitem__(self, name: str) -> DTensor:
        base = self._model[name]
        if name not in self._b:
            return base
        with torch.no_grad():
            update = self._b[name].to_local() @ self._a[name]
            local = base.to_local().float().add(update, alpha=self._scale)
        return DTensor.from_local(
            local, base.device_mesh, base.placements, run_check=False, shape=base.shape, stride=base.stride()
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._model)

    def __len__(self) -> int:
        return len(self._model)


def own_name(name: str) -> str | None:
    """The model's own name of a parameter in a model with adapters; None for a parameter of an adapter."""
    return None if _A in name or _B in name else name.replace(_BASE, "")


def export_adapters(directory: Path, trained: Mapping[str, DTensor], config: LoraConfig, base: Path) -> None:
    """Write a directory that peft's `PeftModel.from_pretrained` loads onto the base model. A collective."""
    adapters: dict[str, Tensor] = {}
    for name, parameter in trained.items():
        if own_name(name) is None:
            whole = parameter.full_tensor().detach().cpu()
            adapters["base_model.model." + name.replace(".default", "")] = whole
    if dist.get_rank() == 0:
        targets = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in adapters})
        about = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(base),
            "r": config.rank,
            "lora_alpha": config.alpha,
            "target_modules": targets,
            "bias": "none",
        }
        with atomic_directory(directory) as draft:
            save_file(adapters, draft / "adapter_model.safetensors", metadata={"format": "pt"})
            (draft / "adapter_config.json").write_text(json.dumps(about, indent=2))
    dist.barrier()
