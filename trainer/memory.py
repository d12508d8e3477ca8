"""How much GPU memory a learner rank takes, by formula: arithmetic on shapes, nothing measured.

P parameters over K ranks. Shards: float32 master weights, gradients and two Adam moments, 16 P / K bytes; with 8-bit
moments 10 P / K; with adapters the frozen model in 2 P / K and 16 bytes per adapter parameter / K. Gathered in
bfloat16: two blocks (one is fetched while the other computes), and embedding and head, which stay; the head's gradient
is summed in float32, and both gradients are in float32 once more when they are reduced over the ranks. Activations:
about 34 bytes per token, layer and unit of width (2205.05198, eq. 2, without the attention scores, which
flash-attention never stores); checkpointed, 2 bytes and one layer's 34. Log-probs: three buffers of a chunk.
"""

from dataclasses import dataclass, fields

GIB = 1 << 30
LOGITS_PER_CHUNK = 1 << 26
"""256 MiB of float32 logits at a time: rows enough that adding up the [V, d] gradient does not dominate."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the formula needs of a dense model."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    tied: bool = False
    """Whether the head is the embedding."""


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes on one GPU."""

    shards: int
    gathered: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it; CUDA's own context and fragmentation come on top."""
        return sum(getattr(self, field.name) for field in fields(self))


def rank_memory(
    shape: Shape,
    ranks: int,
    micro_batch_tokens: int,
    checkpointing: bool = False,
    adapter_parameters: int = 0,
    moment_bytes: int = 8,
    reference: bool = False,
) -> RankMemory:
    """What one of `ranks` takes.

    Args:
        shape: The model.
        ranks: K.
        micro_batch_tokens: Tokens of a forward pass.
        checkpointing: Whether activations are computed again.
        adapter_parameters: With LoRA, how many are trained; 0 trains the model.
        moment_bytes: Of both Adam moments of a parameter.
        reference: Whether a reference is kept for KL.
    """
    trained = adapter_parameters or shape.parameters
    frozen = 2 * shape.parameters if adapter_parameters else 0
    per_trained = 4 + 4 + moment_bytes + (4 if reference else 0)
    outer = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    block = (shape.parameters - outer) // shape.layers
    outer_gradients = 0 if adapter_parameters else 4 * (shape.vocabulary * shape.hidden + outer)
    layer = 34 * shape.hidden * micro_batch_tokens
    kept = 2 * shape.hidden * micro_batch_tokens * shape.layers + layer if checkpointing else layer * shape.layers
    return RankMemory(
        shards=(frozen + per_trained * trained) // ranks,
        gathered=2 * (2 * block + outer) + outer_gradients,
        activations=kept,
        logits=3 * 4 * LOGITS_PER_CHUNK,
    )
