"""The `ifeval` verifier: instructions that a program can check, in the data format of IFEval (2311.07911).

A row names its instructions in `instruction_id_list` and their arguments in `kwargs`, a list of the same length. The
published program needs nltk's models and langdetect; `verifiers.ifeval_checks` is written anew and says where it
differs.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from verifiers.ifeval_checks import CHECKS
from verifiers.options import flag, text
from verifiers.records import ScoreRequest, Verdict
from verifiers.visible import visible


class IfEval:
    """Whether a response follows all instructions of its row.

    The instructions stand in the row's further columns, as in the published data, or as JSON of the two fields in
    the reference.
    """

    name = "ifeval"
    version = "1"

    def __init__(self, loose: bool = False, partial: bool = False, after: str = "") -> None:
        """Options.

        Args:
            loose: An instruction also counts as followed when it is without the first or the last line of the response
                or both, and without asterisks: forgives `Sure, here it is:` (the paper's loose accuracy).
            partial: The reward is the share of instructions followed; the status still asks for all.
            after: Only what follows the last occurrence of this counts, e.g. `</think>`.
        """
        self._loose = flag("loose", loose)
        self._partial = flag("partial", partial)
        self._after = text("after", after)

    def score(self, request: ScoreRequest) -> Verdict:
        """One part per instruction: 1 followed, 0 not."""
        response = visible(request.response, self._after)
        variants = loose_variants(response) if self._loose else [response]
        parts: dict[str, float] = {}
        for index, (instruction, check) in enumerate(_instructions(request)):
            followed = any(variant.strip() and check(variant) for variant in variants)
            parts[instruction if instruction not in parts else f"{instruction}#{index}"] = float(followed)
        broken = [name for name, followed in parts.items() if not followed]
        return Verdict(
            sum(parts.values()) / len(parts) if self._partial else float(not broken),
            "wrong" if broken else "correct",
            self.name,
            self.version,
            parts,
            feedback=f"not followed: {', '.join(broken)}" if broken else "",
            rule="loose" if self._loose else "strict",
        )


def loose_variants(response: str) -> list[str]:
    """The eight texts of the paper's loose accuracy: without first line, last line, both; each with and without `*`."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(variant.replace("*", "") for variant in cut)]


def _instructions(request: ScoreRequest) -> list[tuple[str, Callable[[str], bool]]]:
    """The row's instructions by their ids, each with a function that checks a response."""
    row: Mapping[str, Any] = request.extras
    if "instruction_id_list" not in row:
        try:
            row = json.loads(request.reference)
        except ValueError:
            row = {}
    if not isinstance(row, Mapping) or not row.get("instruction_id_list"):
        raise ValueError(
            "the row has no instructions; it needs the columns instruction_id_list and kwargs of the IFEval data, or a "
            'reference like {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}'
        )
    names, arguments = row["instruction_id_list"], row.get("kwargs") or [{}] * len(row["instruction_id_list"])
    if len(names) != len(arguments):
        raise ValueError(
            f"{len(names)} instructions but {len(arguments)} kwargs; every instruction has its own, perhaps {{}}"
        )
    return [(name, _check(name, given or {})) for name, given in zip(names, arguments, strict=True)]


def _check(instruction: str, given: Mapping[str, Any]) -> Callable[[str], bool]:
    """A function of the response alone. Arguments that are null belong to other instructions: tables have them all."""
    if instruction not in CHECKS:
        raise ValueError(f"no instruction has the id {instruction!r}; known are {', '.join(CHECKS)}")
    check, needed = CHECKS[instruction]
    missing = [argument for argument in needed if given.get(argument) is None]
    if missing:
        raise ValueError(
            f"instruction {instruction} needs {', '.join(missing)} in its kwargs, got {dict(given)!r:.120}"
        )
    arguments = {argument: given[argument] for argument in needed}
    return lambda response: check(response, **arguments)
