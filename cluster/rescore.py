"""`rloop verify --run`: judges the answers of a run anew, from its journal, and shows what would change."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.casting import make_decoder
from cluster.exits import Exit
from cluster.materials import load_data, load_tokenizer, noted_recipe
from cluster.rundir import saved_config
from cluster.settings import Refused
from cluster.verification import GIVEN, Asked, Judged
from cluster.verify import VerifyOptions, judge_with_progress
from cluster.verify_report import write_lines
from rollout.events import Finished, PayloadRef, replay
from rollout.journal import read_payloads
from rollout.records import Prompt
from rollout.storage import LocalDisk
from verifiers.records import ScoreRequest
from verifiers.spec import VerifierSpec

_COLUMNS = (
    *("purpose", "epoch", "prompt_id", "sample_index", "iteration", "token_ids", "finish_reason"),
    *("verdict_status", "reward", "verifier", "verifier_version"),
)
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer of the run, and what was said of it then."""

    asked: Asked
    where: str
    """`iteration 1`, or `held-out`."""
    status: str
    reward: float | None
    by: str
    """Verifier and version."""


def rescore(run_dir: Path, spec: VerifierSpec | None, settings: VerifyOptions, limit: int, console: Console) -> Exit:
    """Judge up to `limit` answers (0: all), drawn by chance; the journal stays as it is.

    With `spec` that verifier judges the answers that it judged before, under any version and options, or all of them
    where the run's problems name none; else each problem's own.
    """
    recorded = list(_recorded(run_dir, spec, limit))
    if not recorded:
        raise Refused([f"{run_dir} has no finished answers yet; there is nothing to judge anew"])
    found = judge_with_progress([one.asked for one in recorded], settings, console)
    pairs = list(zip(recorded, found.judged, strict=True))
    changed = [(old, new) for old, new in pairs if (old.status, old.reward) != (new.verdict.status, new.verdict.reward)]
    then = ", ".join(sorted({old.by for old, _ in pairs}))
    now = ", ".join(sorted({f"{new.verdict.verifier} {new.verdict.version}" for _, new in pairs}))
    console.print(
        f"{len(pairs):,} answers of {run_dir.name}, judged by {then}, now by {now}: {len(changed):,} verdicts would "
        f"change ({len(changed) / len(pairs):.2%})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    console.print(_statuses(pairs))
    console.print(_rewards(pairs))
    if changed:
        console.print(_examples(changed[:_SHOWN]))
    if settings.out:
        write_lines(iter(found.judged), settings.out)
        console.print(f"A line per answer: {settings.out}", highlight=False, markup=False, soft_wrap=True)
    return Exit.DONE


def _recorded(run_dir: Path, wanted: VerifierSpec | None, limit: int) -> Iterator[Recorded]:
    config, recipe = saved_config(run_dir, []), noted_recipe(run_dir)
    if recipe is None:
        raise Refused([f"{run_dir} has not got as far as its data; there is nothing to judge anew"])
    data = load_data(config, load_tokenizer(recipe.model_dir))
    prompts = {prompt.id: prompt for prompt in (*data.train, *data.held_out)}
    own, several = config.verifier_specs(), len({prompt.verifier for prompt in prompts.values()}) > 1
    decode, journal = make_decoder(recipe.model_dir), LocalDisk(run_dir / "journal")
    for _, batch in read_payloads(journal, _drawn(journal, limit, config.rollout.group_size), _COLUMNS):
        for row in batch.to_pylist():
            prompt = prompts.get(row["prompt_id"])
            if prompt and (wanted is None or not several or own[prompt.verifier].name == wanted.name):
                yield _record(row, prompt, decode(row["token_ids"]), wanted or own[prompt.verifier])


def _drawn(journal: LocalDisk, limit: int, group_size: int) -> list[PayloadRef]:
    """Groups, in their order; enough for `limit` answers."""
    refs = [event.payload for event in replay(journal) if isinstance(event, Finished)]
    if not limit or limit >= len(refs) * group_size:
        return refs
    chosen = np.random.default_rng(0).permutation(len(refs))[: -(-limit // group_size)]
    return [refs[i] for i in sorted(chosen)]


def _record(row: Mapping[str, Any], prompt: Prompt, response: str, spec: VerifierSpec) -> Recorded:
    request = ScoreRequest(
        prompt.text,
        response,
        prompt.reference,
        truncated=row["finish_reason"] == "length",
        extras=json.loads(prompt.extras or "{}"),
        verifier=prompt.verifier,
    )
    name = f"{row['purpose']}/{row['epoch']}/{row['prompt_id']}/{row['sample_index']}"
    by = f"{row['verifier']} {row['verifier_version']}"
    where = f"iteration {row['iteration'] + 1}" if row["purpose"] == "train" else "held-out"
    return Recorded(Asked(name, GIVEN, request, spec), where, row["verdict_status"], row["reward"], by)


def _statuses(pairs: list[tuple[Recorded, Judged]]) -> Table:
    counts = Counter((old.status, new.verdict.status) for old, new in pairs)
    drawn = Table(title="Status then, and now", title_justify="left")
    for name in ("then", "now", "answers"):
        drawn.add_column(name, justify="right" if name == "answers" else "left")
    for (then, now), count in sorted(counts.items()):
        drawn.add_row(then, now if now != then else "the same", f"{count:,}")
    return drawn


def _rewards(pairs: list[tuple[Recorded, Judged]]) -> Table:
    rewards: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for old, new in pairs:
        if old.reward is not None and new.verdict.reward is not None:
            rewards[old.where].append((old.reward, new.verdict.reward))
    drawn = Table(title="Mean reward", title_justify="left")
    for name in ("answers of", "then", "now"):
        drawn.add_column(name, justify="left" if name == "answers of" else "right")
    for where, both in rewards.items():
        then, now = np.mean(both, axis=0)
        drawn.add_row(where, f"{then:.4f}", f"{now:.4f}")
    return drawn


def _examples(changed: list[tuple[Recorded, Judged]]) -> Table:
    drawn = Table(title="What would change", title_justify="left")
    for name in ("answer", "then", "now", "the end of it", "why"):
        drawn.add_column(name)
    for old, new in changed:
        tail = old.asked.request.response[-40:]
        cells = (old.asked.id, old.status, new.verdict.status, tail, (new.verdict.feedback or new.verdict.rule)[:60])
        drawn.add_row(*map(Text, cells))
    return drawn
