"""What a judge is asked about an answer, and how its scores become one reward."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verifiers.options import flag, real, text, whole
from verifiers.records import ScoreRequest


@dataclass(frozen=True, slots=True)
class RubricItem:
    """One criterion."""

    id: str
    """Short name; a part of the verdict."""
    text: str
    """The criterion as the judge reads it, e.g. `The answer names the year 1789.`"""
    weight: float = 1.0
    """Share in the reward relative to the other items; negative where the criterion describes a fault."""
    veto: bool = False
    """Whether the reward is 0 when this is not met (with a negative weight: when it is)."""
    scale: int = 1
    """The judge gives 0 to `scale` points; 1 is no or yes."""


AGREEMENT = RubricItem("agrees", "The answer's final result says the same as the reference.")
"""The whole rubric where none is given."""
_FIELDS = ("id", "text", "weight", "veto", "scale")


def read_rubric(option: str, given: object) -> tuple[RubricItem, ...]:
    """The items of a rubric as recipes and rows write it: a list of texts, or of mappings with `RubricItem`'s fields.

    Raises:
        ValueError: It is none; names the item and its field.
    """
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise ValueError(
            f"{option} is a list of criteria, e.g. [{{text: It is polite., weight: 2}}], got {given!r:.120}"
        )
    items = tuple(_item(f"{option}[{index}]", one, index) for index, one in enumerate(given))
    if len({item.id for item in items}) < len(items):
        raise ValueError(f"{option} has two items with the same id: {', '.join(item.id for item in items)}; rename one")
    if not any(item.weight > 0 for item in items):
        raise ValueError(f"{option} has no item with a weight above 0, so that no answer could be good; add one")
    return items


def rubric_of(request: ScoreRequest, default: Sequence[RubricItem]) -> tuple[Sequence[RubricItem], str]:
    """The rubric for one answer and the reference to show with it.

    First of: the row's column `rubric`; the reference where it is a JSON list of mappings; the recipe's rubric;
    `AGREEMENT`, which needs a reference. A list of anything else, such as `["Paris", "London"]`, is an answer.
    """
    if "rubric" in request.extras:
        return read_rubric("the row's rubric", request.extras["rubric"]), request.reference
    if (own := _mappings(request.reference)) is not None:
        return read_rubric("the reference", own), ""
    if not default and not request.reference.strip():
        raise ValueError(
            "there is neither a reference nor a rubric to judge by; give the row one, or the recipe a rubric"
        )
    return default or (AGREEMENT,), request.reference


def weighted(items: Sequence[RubricItem], shares: Mapping[str, float]) -> tuple[float, str]:
    """The reward in [0, 1], and the id of the item that vetoed it or an empty string.

    Points met over the sum of positive points, clipped, as HealthBench does (2505.08775).

    Args:
        items: The rubric.
        shares: By item id, how far it is met: 0 to 1, the mean over the votes.
    """
    for item in items:
        if item.veto and (shares[item.id] >= 0.5) != (item.weight > 0):
            return 0.0, item.id
    total = sum(item.weight * shares[item.id] for item in items)
    return min(max(total / sum(item.weight for item in items if item.weight > 0), 0.0), 1.0), ""


def _mappings(reference: str) -> list[Any] | None:
    """The reference as a list of mappings; None where it is anything else."""
    try:
        given = json.loads(reference)
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, list) and given and all(isinstance(one, Mapping) for one in given) else None


def _item(option: str, given: object, index: int) -> RubricItem:
    fields: Mapping[str, Any] = (
        {"text": given} if isinstance(given, str) else given if isinstance(given, Mapping) else {}
    )
    if "text" not in fields or set(fields) - set(_FIELDS):
        raise ValueError(f"{option} is a text or a mapping of {', '.join(_FIELDS)}, got {given!r:.120}")
    weight = real(f"{option}.weight", fields.get("weight", 1.0))
    if weight == 0 or not text(f"{option}.text", fields["text"]).strip():
        raise ValueError(f"{option} needs a text and a weight other than 0, got {given!r:.120}")
    return RubricItem(
        text(f"{option}.id", fields.get("id", f"item_{index + 1}")),
        fields["text"],
        weight,
        flag(f"{option}.veto", fields.get("veto", False)),
        whole(f"{option}.scale", fields.get("scale", 1), 1, 100),
    )
