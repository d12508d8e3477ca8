"""Which tensors of a model directory make up each parameter of the model that transformers builds from it.

Mostly one tensor is one parameter of the same name. Mixture-of-experts models differ: transformers computes with all
experts of a layer in one parameter [experts, rows, columns], while files, and engines, have a matrix per expert (and
one each for gate and up). As the experts are axis 0, such a parameter is its matrices end to end: nothing is ever
converted, a parameter only has several names. They come from the conversion tables of transformers itself.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from rollout.weights import piece_shape
from trainer.stored_tensors import Shape, StoredTensors

Parts = Mapping[str, tuple[str, ...]]
"""By parameter: the stored tensors that lie in it, end to end; nearly always one."""

_Found = list[tuple[str | None, str]]
"""(pattern of the converter that is to merge it, name) of stored tensors that belong to one parameter."""

_REMEDY = "copy the whole snapshot of one model, config.json and weights"

_MERGES = ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)])
"""Experts stacked along axis 0, each a matrix or several below each other."""


def parts_of(lm: PreTrainedModel, stored: StoredTensors) -> Parts:
    """The stored tensors of each parameter.

    Raises:
        ValueError: Tensors are missing, unknown or of another shape; the files would have to be converted by more than
            merging experts; or the model has state that is not a parameter.
    """
    parameters = {name: tuple(p.shape) for name, p in lm.named_parameters()}
    transforms = get_model_conversion_mapping(lm)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    state, found = lm.state_dict(), defaultdict[str, _Found](list)
    for name in sorted(stored.shapes, key=dot_natural_key):  # experts in the order of their numbers
        parameter, pattern = rename_source_key(name, renamings, converters, lm.base_model_prefix, state)
        found[parameter].append((pattern, name))
    parts = {name: _in_order(name, found[name], converters) for name in parameters if name in found}
    _refuse_other_state(lm)
    unknown = [names for key, names in found.items() if key not in parameters and not _left_out(lm, key)]
    for name in sorted(name for names in unknown for _, name in names):
        raise ValueError(f"{stored.paths[name]}: {type(lm).__name__} has no place for {name}; {_REMEDY}")
    for name in sorted(parameters.keys() - parts.keys()):
        raise ValueError(f"{stored.directory}: no file holds {name} of {type(lm).__name__}; {_REMEDY}")
    for name, pieces in parts.items():
        _check_shapes(name, parameters[name], pieces, stored)
    return parts


def _refuse_other_state(lm: PreTrainedModel) -> None:
    """Only what has a gradient is trained, saved and sent to engines."""
    trained = {name for name, p in lm.named_parameters(remove_duplicate=False) if p.requires_grad}
    odd = sorted(lm.state_dict().keys() - trained)
    if odd:
        raise ValueError(
            f"RLoop trains models that consist of trained parameters, {type(lm).__name__} also keeps {odd[0]}, which "
            "gradients do not reach; take another model"
        )


def _left_out(lm: PreTrainedModel, name: str) -> bool:
    """Whether a stored tensor may be there without being used: a tied head, or what transformers ignores, too."""
    ignored = [*(lm._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq$"]
    return name in lm.all_tied_weights_keys or any(re.search(pattern, name) for pattern in ignored)


def _in_order(parameter: str, found: _Found, converters: list[WeightConverter]) -> tuple[str, ...]:
    """The names as the tensors lie in the parameter: expert by expert, and in each in the converter's order."""
    patterns = {pattern for pattern, _ in found}
    if patterns == {None}:
        return tuple(name for _, name in found)
    converter = next(c for c in converters if patterns & set(c.source_patterns))
    if [(type(op), getattr(op, "dim", None)) for op in converter.operations] not in _MERGES:
        operations = " and ".join(type(op).__name__ for op in converter.operations)
        raise ValueError(
            f"RLoop takes stored tensors as they are, or experts to be stacked; {parameter} is made of "
            f"{' and '.join(converter.source_patterns)} by {operations}; take another model"
        )
    by_pattern = [[name for pattern, name in found if pattern == wanted] for wanted in converter.source_patterns]
    if len({len(names) for names in by_pattern}) > 1:
        counts = " and ".join(f"{len(n)} of {p}" for n, p in zip(by_pattern, converter.source_patterns, strict=True))
        raise ValueError(f"{parameter} needs the same tensors of each expert, got {counts}; {_REMEDY}")
    return tuple(name for expert in zip(*by_pattern, strict=True) for name in expert)


def _check_shapes(parameter: str, shape: Shape, pieces: tuple[str, ...], stored: StoredTensors) -> None:
    whole_experts = len(pieces) == 1 or len(pieces) % shape[0] == 0
    for name in pieces:
        if not whole_experts or stored.shapes[name] != piece_shape(shape, len(pieces)):
            raise ValueError(
                f"{stored.paths[name]}: {parameter} {list(shape)} cannot be made of {len(pieces)} tensors like {name} "
                f"{list(stored.shapes[name])}; {_REMEDY}"
            )
