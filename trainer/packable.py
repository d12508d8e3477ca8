"""What in a model's configuration keeps its sequences from being packed, or its log-probs from being the head's own.

Reads settings alone: the preflight asks with what config.json says, the loader with all that transformers makes of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

REFUSED = 3
"""Exit code of `trainer.trial_build` for a model that cannot be trained; others but 0 say nothing about the model."""

_LOGIT_SETTINGS = {
    "final_logit_softcapping": None,
    "logit_scale": 1,
    "logits_scaling": 1,
    "logits_mup_width_multiplier": 1,
}
"""What changes logits after the output head, with the values that change nothing."""
_SCALED = {"logit_scale": "cohere", "logits_scaling": "granite"}
"""Families (beginnings of `model_type`) whose scale the learner applies, see `trainer.policy.logit_scale`."""
_DEPENDENT_ON_LENGTH = ("longrope", "dynamic")


def hindrances(name: str, kind: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """A sentence per setting that the learner cannot do right.

    Args:
        name: What the model is called in messages.
        kind: Its `model_type`.
        settings: Of config.json.
    """
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type"))
    if rope_type in _DEPENDENT_ON_LENGTH:
        yield (
            f"RLoop packs sequences, and the rotary embedding of {name} (rope_type={rope_type}) depends on the longest "
            "position of a whole pack; take another model, or rope_type=default for contexts of the original length"
        )
    for setting, neutral in _LOGIT_SETTINGS.items():
        ours = _SCALED.get(setting)
        if (got := settings.get(setting, neutral)) != neutral and not (ours and kind.startswith(ours)):
            yield (
                f"RLoop takes log-probs from the output head itself, {name} changes its logits afterwards "
                f"({setting}={got}); take a model without it"
            )
