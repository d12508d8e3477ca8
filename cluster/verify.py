"""`rloop verify`: judges the responses of a data set, or tries a verifier with its gold answers and with traps."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import Progress

from cluster.exits import Exit
from cluster.settings import Refused
from cluster.verification import GIVEN, GOLD, Asked, Verification, judge_all, refuse_unread
from cluster.verify_report import is_odd, show, write_lines
from rollout.config import SetConfig
from rollout.data_errors import Complaints
from rollout.problems import RawProblem, load_problems
from verifiers.answers import reference_answer
from verifiers.catalogue import load
from verifiers.config import VerifierSettings
from verifiers.gold import gold_response
from verifiers.nursery import VerifierUnavailable
from verifiers.plugin import UnknownName
from verifiers.protocol import Verifier
from verifiers.records import ScoreRequest
from verifiers.spec import VerifierSpec
from verifiers.traps import traps

GOLD_FLOOR = 0.995
"""Share of gold answers that a set worth training on has accepted."""


CONCURRENCY = 128


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What the command line says."""

    processes: int
    recheck: float
    """Share of the responses that are judged twice."""
    out: Path | None
    """Where a line per response goes."""


def spec_of(name: str, options: Sequence[str], timeout_s: float | None) -> VerifierSpec:
    """A verifier as the command line names it."""
    values = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise Refused([f"--option {option!r}: write KEY=VALUE"])
        values[key] = yaml.safe_load(text)
    return VerifierSettings(options=values, timeout_s=timeout_s, concurrency=CONCURRENCY).spec(name)


def verify_given(
    asked: SetConfig, spec: VerifierSpec, settings: VerifyOptions, limit: int | None, console: Console
) -> Exit:
    """Judge the responses that rows have in a column."""
    problems = _problems(asked, spec, limit, console)
    specs = _specs(problems, spec)
    requests = [_request(p, GIVEN, p.response, specs[p.verifier]) for p in problems]
    _finish(judge_with_progress(requests, settings, console), settings, console)
    return Exit.DONE


def verify_gold(
    asked: SetConfig, spec: VerifierSpec, settings: VerifyOptions, limit: int | None, console: Console
) -> Exit:
    """Every gold answer must be accepted, every trap rejected; exit code 1 when they are not."""
    problems = _problems(asked, spec, limit, console)
    requests = list(_gold_and_traps(problems, _specs(problems, spec), settings.processes))
    found = judge_with_progress(requests, settings, console)
    _finish(found, settings, console)
    accepted = [one.verdict.status == "correct" for one in found.of(GOLD)]
    trapped = [one for one in found.judged if one.asked.kind != GOLD and is_odd(one)]
    good = sum(accepted) >= GOLD_FLOOR * len(accepted) and not trapped
    verdict = "fits these data" if good else "does not fit these data: do not train on its rewards before you know why"
    names = ", ".join(dict.fromkeys(repr(one.spec.name) for one in requests))
    console.print(
        f"Gold answers accepted: {sum(accepted):,} of {len(accepted):,}; traps accepted: {len(trapped):,}. "
        f"Verifier {names} {verdict}.",
        highlight=False,
    )
    return Exit.DONE if good else Exit.FAILED


def _problems(asked: SetConfig, spec: VerifierSpec, limit: int | None, console: Console) -> list[RawProblem]:
    complaints = Complaints()
    loaded = load_problems(asked, complaints, limit, spec.name)
    complaints.settle()
    console.print(loaded.note, highlight=False, markup=False, soft_wrap=True)
    return loaded.problems


def _specs(problems: Sequence[RawProblem], spec: VerifierSpec) -> dict[str, VerifierSpec]:
    """The verifiers by the names that rows have for them; the command's own has the empty name too."""
    specs = {"": spec, spec.name: spec}
    for problem in problems:
        specs.setdefault(problem.verifier, replace(spec, name=problem.verifier, options="{}"))
    return specs


def _gold_and_traps(
    problems: Sequence[RawProblem], specs: Mapping[str, VerifierSpec], processes: int
) -> Iterator[Asked]:
    verifiers = {name: _loaded(spec) for name, spec in specs.items()}
    for problem in problems:
        spec = specs[problem.verifier]
        gold = gold_response(verifiers[problem.verifier], problem.answer, problem.response)
        if gold is None:
            refuse_unread([_request(p, GOLD, "", specs[p.verifier]) for p in problems], processes)
            raise Refused(
                [
                    f"{problem.source}: {spec.name!r} makes no response from a reference; name the column that "
                    "holds right responses with --gold, or the one to be judged with --response"
                ]
            )
        yield _request(problem, GOLD, gold, spec)
        answer = reference_answer(problem.answer)
        for name, trap in traps(answer).items():
            yield _request(problem, name, trap, spec)


def _loaded(spec: VerifierSpec) -> Verifier:
    try:
        return load(spec.name, spec.arguments)
    except (UnknownName, TypeError, ValueError) as error:
        raise Refused([f"--verifier, or the column 'verifier': {error}"]) from None


def _request(problem: RawProblem, kind: str, response: str, spec: VerifierSpec) -> Asked:
    extras: dict[str, Any] = json.loads(problem.extras or "{}")
    request = ScoreRequest(problem.question, response, problem.answer, extras=extras)
    return Asked(problem.id, kind, request, spec, problem.source)


def judge_with_progress(asked: Sequence[Asked], settings: VerifyOptions, console: Console) -> Verification:
    """Judge them in processes of their own. Raises `Refused` when the verifier cannot be loaded."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("responses judged", total=len(asked))
        told: Callable[[int], None] = lambda done: progress.update(task, completed=done)  # noqa: E731
        try:
            return judge_all(asked, settings.processes, settings.recheck, told)
        except VerifierUnavailable as error:
            raise Refused([str(error)]) from None


def _finish(found: Verification, settings: VerifyOptions, console: Console) -> None:
    show(found, console)
    if settings.out:
        write_lines(iter(found.judged), settings.out)
        console.print(f"A line per response: {settings.out}", highlight=False, markup=False, soft_wrap=True)
