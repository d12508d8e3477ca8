"""New weights for a model without copying them: its parameters become views of the file that the weights lie in.

Where a parameter's elements lie together in the file, in order and in its dtype, it adopts them; a loader that
fuses several tensors into one parameter finds them side by side. Other parameters are copied. The file must stay as it
is for as long as the model computes with it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rollout.weights import TensorSpec

Load = Callable[[Sequence[tuple[str, torch.Tensor]]], Any]


class Adoption:
    """How the parameters of one model take their values from files of one layout: learned by watching a first load.

    Args:
        model: Takes the weights; when this returns it has them.
        load: Its own way to load (name, tensor) pairs, by copies.
        file: [bytes] of the file.
        specs: Where the tensors lie in it.
    """

    def __init__(self, model: torch.nn.Module, load: Load, file: torch.Tensor, specs: Sequence[TensorSpec]) -> None:
        with _Copies() as copies:
            load([(spec.name, view(file, spec)) for spec in specs])
        self._places: list[tuple[torch.nn.Parameter, int]] = []
        adopted: set[str] = set()
        for parameter in model.parameters():
            sources = _sources(parameter, copies.made, file)
            if sources is not None:
                self._places.append((parameter, sources[0]))
                adopted |= {spec.name for spec in specs if sources[0] <= spec.offset < sources[0] + parameter.nbytes}
        self._load = load
        self._copied = [spec for spec in specs if spec.name not in adopted]

    @property
    def copied(self) -> list[str]:
        """Names of the tensors that are still copied."""
        return [spec.name for spec in self._copied]

    def take(self, file: torch.Tensor) -> None:
        """Compute with the weights in this file from now on."""
        for parameter, offset in self._places:
            parameter.data = file[offset : offset + parameter.nbytes].view(parameter.dtype).view(parameter.shape)
        self._load([(spec.name, view(file, spec)) for spec in self._copied])


def view(file: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """A tensor of the file, in its shape."""
    return file[spec.offset : spec.offset + spec.nbytes].view(getattr(torch, spec.dtype)).view(tuple(spec.shape))


class _Copies(TorchDispatchMode):
    """Notes every copy from one tensor into another."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            self.made.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


def _sources(
    parameter: torch.nn.Parameter, copies: Sequence[tuple[torch.Tensor, torch.Tensor]], file: torch.Tensor
) -> tuple[int, int] | None:
    """[begin, end) of the parameter's bytes in the file, when they lie there exactly as in the parameter."""
    begin, end = parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes
    into = [(to, source) for to, source in copies if begin <= to.data_ptr() < end]
    if not all(to.is_contiguous() and source.is_contiguous() and to.dtype == source.dtype for to, source in into):
        return None
    parts = sorted((to.data_ptr() - begin, source.data_ptr() - file.data_ptr(), to.nbytes) for to, source in into)
    first, filled = (parts[0][1] if parts else 0), 0
    for inside, in_file, nbytes in parts:
        if inside != filled or in_file != first + filled:
            return None
        filled += nbytes
    # What a loader computed and then copied lies elsewhere in memory, before the file or after it.
    lies_in_file = first >= 0 and first + filled <= len(file)
    return (first, first + filled) if parts and filled == parameter.nbytes and lies_in_file else None
