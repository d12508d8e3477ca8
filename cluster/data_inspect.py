"""`rloop data inspect RECIPE`: what a run would make of its data. Rows, columns, token lengths, prompts as the model
sees them, and what the verifier says of the gold answers. Starts no run and writes no run directory.

Rows that a run would refuse are listed, not refused: this is where one looks to mend them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from cluster.config import RunConfig
from cluster.exits import Exit
from cluster.gold_check import GoldCheck, gold_checks
from cluster.preflight import data_problems, model_of
from cluster.settings import Refused
from rollout.records import Prompt

if TYPE_CHECKING:
    from cluster.materials import RunData

_MAX_LISTED = 20
_MAX_TEXT = 1_500  # characters of a prompt on the screen; the file has all


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the prompts of a set."""

    min: int
    median: int
    p99: int
    max: int

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> "Lengths":
        """Percentiles that some prompt really has."""
        lengths = np.array([len(prompt.token_ids) for prompt in prompts])
        low, middle, high, top = np.percentile(lengths, [0, 50, 99, 100], method="higher")
        return cls(int(low), int(middle), int(high), int(top))


@dataclass(frozen=True, slots=True)
class SetReport:
    """One training source or held-out set."""

    name: str
    use: str
    """`train`, with its share of the groups, or `held out`."""
    problems: int
    tokens: Lengths


@dataclass(frozen=True, slots=True)
class Shown:
    """One row as the model and the verifier see it."""

    id: str
    source: str
    verifier: str
    prompt: str
    """Decoded, special tokens included."""
    tokens: int
    reference: str
    extras: dict[str, Any]
    gold: str
    """The response that must score as correct; empty where there is none."""
    verdict: dict[str, Any] | None


def inspect(config: RunConfig, rows: int, json_file: Path | None, console: Console) -> Exit:
    """Print the report, and write it to `json_file`. Exit code 1 when a run would refuse this data.

    Raises:
        Refused: When the data or the model cannot be read at all.
    """
    if json_file and not json_file.absolute().parent.is_dir():
        raise Refused([f"--json {json_file}: there is no directory {json_file.absolute().parent}; make it first"])
    lenient = config.model_copy(update={"data": config.data.model_copy(update={"on_bad_row": "skip"})})
    _, tokenizer, problems = model_of(config)
    if tokenizer is None:
        raise Refused(problems)
    data, more = data_problems(lenient, tokenizer)
    if data is None or more:
        raise Refused(more)
    checks = gold_checks(config, data.files)
    sets = list(_sets(data))
    shown = [one for check in checks for one in _shown(check, data, tokenizer, rows)]
    _print(console, config, data, sets, checks, shown)
    if json_file:
        json_file.write_text(json.dumps(_as_json(config, data, sets, checks, shown), indent=1) + "\n", "utf-8")
    refused = bool(data.skipped) and config.data.on_bad_row == "refuse"
    failed = any(not check.passes(config.data.gold_floor) for check in checks)
    return Exit.FAILED if refused or failed else Exit.DONE


def _sets(data: "RunData") -> Iterator[SetReport]:
    by_id = {prompt.id: prompt for prompt in data.train}
    total = sum(share.weight for share in data.mixture)
    for source, share in zip(data.files.train, data.mixture, strict=True):
        prompts = [by_id[prompt_id] for prompt_id in share.prompt_ids]
        yield SetReport(source.name, f"train, {share.weight / total:.0%} of groups", len(prompts), Lengths.of(prompts))
    for tag in dict.fromkeys(prompt.tag for prompt in data.held_out):
        prompts = [prompt for prompt in data.held_out if prompt.tag == tag]
        yield SetReport(tag, "held out", len(prompts), Lengths.of(prompts))


def _shown(check: GoldCheck, data: "RunData", tokenizer: Any, rows: int) -> Iterator[Shown]:
    """The first rows of the sample whose gold answers were scored, the rejected ones before the others."""
    scored: list[Any] = sorted(check.scored, key=lambda one: one[2].status == "correct")
    unscored = [(problem, "", None) for problem in check.set.problems[:rows]]
    prompts = {(prompt.source, prompt.id): prompt for prompt in (*data.train, *data.held_out)}
    for problem, gold, verdict in (scored or unscored)[:rows]:
        if prompt := prompts.get((problem.source, problem.id)):  # one that is too long was left out
            yield Shown(
                id=problem.id,
                source=problem.source,
                verifier=check.set.verifier,
                prompt=tokenizer.decode(list(prompt.token_ids)),
                tokens=len(prompt.token_ids),
                reference=problem.answer,
                extras=json.loads(problem.extras or "{}"),
                gold=gold,
                verdict=asdict(verdict) if verdict else None,
            )


# -- on the screen ---------------------------------------------------------------------------------------------------


def _print(
    console: Console,
    config: RunConfig,
    data: "RunData",
    sets: Sequence[SetReport],
    checks: Sequence[GoldCheck],
    shown: Sequence[Shown],
) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    for note in data.files.notes:
        say(note)
    console.print(_table(sets))
    longest, answer = config.rollout.context_length - 1, config.rollout.max_new_tokens
    say(
        f"Prompt tokens. A prompt may have {longest} (rollout.context_length - 1); with more than "
        f"{max(0, longest + 1 - answer)} its answers end before rollout.max_new_tokens={answer}.\n"
    )
    for one in shown:
        say("\n".join(_lines(one)))
    for check in checks:
        say("\n".join([check.line(), *(f"  {row}" for row in check.rows())]))
    if not checks:
        say("gold answers: not checked, data.check_gold=0")
    if data.skipped:
        fate = (
            "left out"
            if config.data.on_bad_row == "skip"
            else "refused by a run (data.on_bad_row=skip leaves them out)"
        )
        say(f"\n{len(data.skipped)} bad rows, {fate}:")
        say("\n".join(f"  {why}" for why in data.skipped[:_MAX_LISTED]))
        if (rest := len(data.skipped) - _MAX_LISTED) > 0:
            say(f"  and {rest} more; --json FILE has all of them")


def _table(sets: Sequence[SetReport]) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column("set")
    drawn.add_column("use")
    for name in ("problems", "min", "median", "p99", "max"):
        drawn.add_column(name, justify="right")
    for one in sets:
        t = one.tokens
        drawn.add_row(one.name, one.use, f"{one.problems:,}", *(f"{n:,}" for n in (t.min, t.median, t.p99, t.max)))
    return drawn


def _lines(one: Shown) -> Iterator[str]:
    yield f"--- {one.source} (id {one.id!r}), {one.tokens} tokens, verifier {one.verifier}"
    yield _cut(one.prompt)
    yield f"--- reference: {_cut(one.reference)}"
    if one.extras:
        yield f"--- also kept: {', '.join(one.extras)}"
    if one.verdict:
        verdict = one.verdict
        told = [f"{key} {verdict[key]!r}" for key in ("answer", "expected", "rule", "feedback") if verdict[key]]
        yield f"--- gold answer: {_cut(one.gold)}"
        yield f"--- verdict: {', '.join([verdict['status'], *told])}"
    yield ""


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}… ({len(text):,} characters)"


def _as_json(
    config: RunConfig,
    data: "RunData",
    sets: Sequence[SetReport],
    checks: Sequence[GoldCheck],
    shown: Sequence[Shown],
) -> dict[str, Any]:
    return {
        "context_length": config.rollout.context_length,
        "max_new_tokens": config.rollout.max_new_tokens,
        "notes": data.files.notes,
        "sets": [asdict(one) for one in sets],
        "gold": [
            {
                "set": check.set.name,
                "verifier": check.set.verifier,
                "checked": check.checked,
                "accepted": check.checked - len(check.rejected),
                "passes": check.passes(config.data.gold_floor),
                "rejected": [
                    {"source": problem.source, "id": problem.id, "gold": gold, "verdict": asdict(verdict)}
                    for problem, gold, verdict in check.rejected
                ],
                "read": len(check.read) - len(check.unread),
                "unread": [
                    {"source": problem.source, "id": problem.id, "verdict": asdict(verdict)}
                    for problem, verdict in check.unread
                ],
            }
            for check in checks
        ],
        "rows": [asdict(one) for one in shown],
        "skipped": data.skipped,
    }
