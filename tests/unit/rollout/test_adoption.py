import numpy as np
import torch

from rollout.adoption import Adoption, view
from rollout.weights import WeightLayout


class Fused(torch.nn.Module):
    """As vLLM holds a layer: q and k in one matrix, a vocabulary padded to more rows than the checkpoint has."""

    def __init__(self) -> None:
        super().__init__()
        self.qk = torch.nn.Parameter(torch.zeros(24, 8))
        self.norm = torch.nn.Parameter(torch.zeros(8))
        self.embed = torch.nn.Parameter(torch.zeros(64, 8))
        self.turned = torch.nn.Parameter(torch.zeros(4, 8))

    @torch.no_grad()
    def load(self, weights) -> None:
        into = {
            "q": self.qk[:16],
            "k": self.qk[16:],
            "norm": self.norm,
            "embed": self.embed[:10],
            "turned": self.turned.T,
        }
        for name, weight in weights:
            into[name].copy_(weight)


LAYOUT = WeightLayout.of(
    (name, "float32", shape)
    for name, shape in [("embed", (10, 8)), ("q", (16, 8)), ("k", (8, 8)), ("turned", (8, 4)), ("norm", (8,))]
)


def file_of(seed: int) -> torch.Tensor:
    values = np.random.default_rng(seed).standard_normal(LAYOUT.nbytes // 4).astype(np.float32)
    return torch.from_numpy(values.view(np.uint8))


def assert_holds(model: Fused, file: torch.Tensor) -> None:
    embed, q, k, turned, norm = (view(file, spec) for spec in LAYOUT.tensors)
    assert torch.equal(model.qk, torch.cat([q, k]))
    assert torch.equal(model.norm, norm)
    assert torch.equal(model.embed[:10], embed)
    assert not model.embed[10:].any()
    assert torch.equal(model.turned, turned.T)


def test_parameters_become_views_where_the_file_has_them_whole_and_the_others_are_copied():
    model, files = Fused(), [file_of(seed) for seed in range(3)]
    adoption = Adoption(model, model.load, files[0], LAYOUT.tensors)
    assert_holds(model, files[0])
    for file in files[1:]:
        adoption.take(file)
        assert_holds(model, file)
    assert adoption.copied == ["embed", "turned"]
    assert model.qk.data_ptr() == files[2].data_ptr() + LAYOUT.tensors[1].offset


def test_tensors_of_a_fused_parameter_that_lie_apart_are_copied():
    model = Fused()
    first, q, k, *rest = LAYOUT.tensors
    adoption = Adoption(model, model.load, file_of(0), (first, k, q, *rest))
    assert adoption.copied == ["embed", "turned"]  # the order in which they are named does not matter
    apart = WeightLayout.of((spec.name, "float32", spec.shape) for spec in (q, first, k, *rest))
    file = torch.from_numpy(np.random.default_rng(9).integers(0, 256, apart.nbytes).astype(np.uint8))
    adoption = Adoption(model, model.load, file, apart.tensors)
    assert adoption.copied == ["q", "embed", "k", "turned"]


def test_what_a_loader_computed_and_then_copied_is_never_taken_from_the_file():
    model = Fused()
    memory = torch.zeros(2 * LAYOUT.nbytes, dtype=torch.uint8)
    computed, file = memory[: LAYOUT.nbytes], memory[LAYOUT.nbytes :]  # as the allocator may happen to place them

    def load(weights) -> None:
        for name, weight in weights:
            into = view(computed, next(spec for spec in LAYOUT.tensors if spec.name == name))
            torch.mul(weight, 2, out=into)
            model.load([(name, into)])

    file.copy_(file_of(0))
    adoption = Adoption(model, load, file, LAYOUT.tensors)
    adoption.take(file)
    assert set(adoption.copied) == {spec.name for spec in LAYOUT.tensors}
    assert torch.equal(model.norm, 2 * view(file, LAYOUT.tensors[-1]))
