"""The whole query against the rule in plain Python, on histories that hypothesis makes up."""

import asyncio
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.events import Finished, Leased, PhaseBegun
from rollout.expert_index import ANSWER, GROUP, ExpertIndex
from rollout.expert_report import ExpertReport
from rollout.expert_rule import ExpertRule, choose
from rollout.experts import select_experts
from rollout.journal import Journal
from rollout.payloads import to_batch
from rollout.records import GroupKey, Prompt, Rollout, RolloutGroup, Segment
from verifiers.records import Verdict


class Answer(NamedTuple):
    tokens: tuple[int, ...]
    verdict: str = "correct"
    truncated: bool = False

    @property
    def eligible(self) -> bool:
        return self.verdict == "correct" and not self.truncated and len(self.tokens) > 0


class Group(NamedTuple):
    prompt: str
    epoch: int
    step: int
    answers: tuple[Answer, ...]


class Found(NamedTuple):
    """A candidate of the twin, or a row of the file."""

    prompt: str
    step: int
    epoch: int
    sample: int
    tokens: tuple[int, ...]


def record(group: Group) -> RolloutGroup:
    rollouts = []
    for i, (tokens, verdict, truncated) in enumerate(group.answers):
        size = len(tokens)
        segment = Segment.of(tokens, [-0.5] * size, [group.step] * size, "length" if truncated else "stop")
        reward = {"correct": 1.0, "wrong": 0.0}.get(verdict)
        status = "failed" if reward is None else "truncated" if truncated else "finished"
        scored = Verdict(reward, verdict, "exact", "1")
        rollouts.append(
            Rollout(group.prompt, i, np.array([1, 2], np.int32), segment, np.ones(size, np.bool_), scored, status)
        )
    return RolloutGroup(
        GroupKey("train", group.epoch, group.prompt), Prompt(group.prompt, "?", (1, 2), "!"), tuple(rollouts)
    )


def write(storage, groups: Sequence[Group], compacted: int = 0) -> None:
    """A journal with the answers of these groups in this order, though the last one finished first. The first
    `compacted` of them are in Parquet.
    """

    async def run() -> None:
        journal = Journal(storage, "data", segment_bytes=2000)
        journal.post(PhaseBegun("rl", 0, 0, 50))
        finished = []
        for number, group in enumerate(groups):
            if number == compacted:
                await journal.compact()
            made = record(group)
            journal.post(Leased(made.key, "w", 0))
            ref = journal.add(to_batch(made, 0, group.step))
            finished.append(Finished(made.key, "w", 0, ref, group.step, group.step, "dropped", "zero_variance"))
        for event in reversed(finished):
            journal.post(event)
        await journal.close()

    asyncio.run(run())


def select(storage, rule: ExpertRule) -> tuple[ExpertReport, list[Found], dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "experts.parquet"
        report = select_experts(storage, 0, rule, out)
        rows = pq.read_table(out).to_pylist()
    found = [Found(r["prompt_id"], r["step"], r["epoch"], r["sample_index"], tuple(r["response_ids"])) for r in rows]
    return report, found, {r["prompt_id"]: r["success_rate"] for r in rows}


def twin(groups: Sequence[Group], rule: ExpertRule) -> tuple[ExpertReport, dict[str, list[Found]], dict[str, float]]:
    """Counts before the cap, distinct candidates of each hard problem by age, and success rates."""
    steps = sorted({g.step for g in groups})[-rule.last_steps :]
    groups = [g for g in groups if g.step in steps]
    attempts, correct = Counter[str](), Counter[str]()
    eligible: dict[str, list[Found]] = defaultdict(list)
    for group in groups:
        for i, answer in enumerate(group.answers):
            attempts[group.prompt] += answer.verdict in ("correct", "wrong")
            correct[group.prompt] += answer.verdict == "correct"
            if answer.eligible:
                eligible[group.prompt].append(Found(group.prompt, group.step, group.epoch, i, answer.tokens))
    rate = {p: correct[p] / attempts[p] for p in attempts if attempts[p]}
    distinct: dict[str, list[Found]] = {}
    too_easy = duplicates = 0
    for prompt, found in eligible.items():
        if rate[prompt] > rule.tau_hard:
            too_easy += len(found)
            continue
        first: dict[tuple[int, ...], Found] = {}
        for each in sorted(found):
            first.setdefault(each.tokens, each)
        distinct[prompt] = list(first.values())
        duplicates += len(found) - len(first)
    over = {prompt: max(0, len(found) - rule.max_per_prompt) for prompt, found in distinct.items()}
    report = ExpertReport(
        attempts=attempts.total(),
        correct=correct.total(),
        truncated=correct.total() - sum(map(len, eligible.values())),
        too_easy=too_easy,
        duplicates=duplicates,
        over_cap=sum(over.values()),
        kept=sum(map(len, distinct.values())) - sum(over.values()),
        prompts=len(rate),
        prompts_unsolved=sum(not correct[p] for p in rate),
        prompts_too_easy=sum(r > rule.tau_hard for r in rate.values()),
        prompts_capped=sum(o > 0 for o in over.values()),
        prompts_kept=len(distinct),
        mean_success=float(np.mean([rate[p] for p in distinct])) if distinct else 0.0,
    )
    return report, distinct, rate


def similarity(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    left, right = ({x[i : i + 4] for i in range(max(1, len(x) - 3))} for x in (a, b))
    return len(left & right) / len(left | right)


ANSWERS = st.builds(
    Answer,
    st.lists(st.integers(0, 2), max_size=6).map(tuple),
    st.sampled_from(["correct", "correct", "correct", "wrong", "error"]),
    st.integers(0, 5).map(lambda die: die == 0),
)
GROUPS = st.builds(
    Group,
    st.sampled_from(["a", "b", "c"]),
    st.integers(0, 30),
    st.integers(0, 9),
    st.lists(ANSWERS, min_size=2, max_size=5).map(tuple),
)
HISTORIES = st.lists(GROUPS, max_size=20, unique_by=lambda g: (g.prompt, g.epoch))
RULES = st.builds(
    ExpertRule, st.sampled_from([0.25, 0.5, 0.75, 1.0]), st.integers(1, 6), st.integers(0, 99), st.integers(0, 4)
)


@settings(max_examples=100)
@given(groups=HISTORIES, rule=RULES, compacted=st.integers(0, 20))
def test_the_expert_set_is_what_the_rule_says(groups, rule, compacted, memory_storage):
    storage = memory_storage()
    write(storage, groups, compacted)
    report, rows, rates = select(storage, rule)
    expected, distinct, rate = twin(groups, rule)
    for name in ("attempts", "correct", "truncated", "too_easy", "duplicates", "over_cap", "kept"):
        assert getattr(report, name) == getattr(expected, name), name
    assert report.correct == report.truncated + report.too_easy + report.duplicates + report.over_cap + report.kept
    for name in ("prompts", "prompts_unsolved", "prompts_too_easy", "prompts_capped", "prompts_kept"):
        assert getattr(report, name) == getattr(expected, name), name
    assert report.mean_success == pytest.approx(expected.mean_success)
    assert rates == {prompt: rate[prompt] for prompt in distinct}
    assert report.tokens == sum(len(row.tokens) for row in rows)
    assert {step: count for step, count in report.per_step.items() if count} == Counter(row.step for row in rows)

    kept: dict[str, list[Found]] = defaultdict(list)
    for row in rows:
        kept[row.prompt].append(row)
    assert kept.keys() == distinct.keys()
    for prompt, found in distinct.items():
        assert len(set(kept[prompt])) == len(kept[prompt]) == min(len(found), rule.max_per_prompt)
        assert set(kept[prompt]) <= set(found)
        is_dealt_in_turn(kept[prompt], found, rule.max_per_prompt)

    pairs = [similarity(a.tokens, b.tokens) for of in kept.values() for a, b in combinations(of, 2)]
    assert report.diversity == (pytest.approx(1 - np.mean(pairs)) if pairs else None)


def is_dealt_in_turn(kept: list[Found], found: list[Found], count: int) -> None:
    """No stretch of steps has two more than one that had more to give; so both ends are there when `count` > 1."""
    first, last = found[0].step, found[-1].step
    have, had = (Counter((f.step - first) * count // (last - first + 1) for f in of) for of in (kept, found))
    for rich in had:
        for poor in had:
            assert have[rich] <= have[poor] + 1 or have[poor] == had[poor]
    if count > 1:
        assert {0, max(had)} <= have.keys()


@settings(max_examples=60)
@given(groups=HISTORIES, rule=RULES, data=st.data())
def test_neither_the_order_of_groups_nor_other_problems_decide_what_is_kept_of_one(groups, rule, data, memory_storage):
    one, other, alone = memory_storage(), memory_storage(), memory_storage()
    write(one, groups)
    write(other, data.draw(st.permutations(groups)), data.draw(st.integers(0, 20)))
    (report, rows, _), (again, reordered, _) = select(one, rule), select(other, rule)
    assert sorted(rows) == sorted(reordered)
    assert report.kept == again.kept
    if not rule.last_steps:  # which steps are last is a matter of all problems
        write(alone, [group for group in groups if group.prompt == "a"])
        assert [row for row in rows if row.prompt == "a"] == select(alone, rule)[1]


def test_another_seed_draws_others_and_the_same_seed_the_same(memory_storage):
    storage = memory_storage()
    write(storage, [Group("a", n, n, (Answer((n,)), Answer((n,), "wrong"))) for n in range(40)])
    draws = [frozenset(select(storage, ExpertRule(1.0, 8, seed))[1]) for seed in (1, 2, 3, 1)]
    assert len(set(draws)) == 3
    assert draws[0] == draws[3]


def test_problems_draw_apart_also_when_their_answers_are_the_same(memory_storage):
    storage = memory_storage()
    solved = [(Answer((n,)), Answer((n,), "wrong")) for n in range(40)]
    write(storage, [Group(name, n, n, answers) for name in "ab" for n, answers in enumerate(solved)])
    rows = select(storage, ExpertRule(1.0, 8, 1))[1]
    a, b = ({row.tokens for row in rows if row.prompt == name} for name in "ab")
    assert len(a) == len(b) == 8
    assert a != b


def test_answers_longer_than_what_is_looked_at_together_are_told_apart(memory_storage):
    storage = memory_storage()
    wrong = Answer((8,), "wrong")
    groups = [Group("ab"[n % 2], n, n, (wrong,) * (n % 3) + (Answer((n, 9) * 12_000),)) for n in range(40)]  # 4 MB
    write(storage, groups, compacted=20)
    report, rows, _ = select(storage, ExpertRule(1.0, 99, 0))
    assert rows == [Found(group.prompt, n, n, n % 3, group.answers[-1].tokens) for n, group in enumerate(groups)]
    assert select_experts(storage, 0, ExpertRule(1.0, 99, 0), None) == report


def test_of_a_million_answers_each_problem_keeps_what_it_would_keep_alone():
    rng = np.random.default_rng(0)
    groups, answers = np.zeros(40_000, GROUP), np.zeros(1_000_000, ANSWER)
    groups["prompt"], groups["epoch"] = rng.integers(0, 3_000, len(groups)), np.arange(len(groups))
    groups["step"] = rng.integers(0, 100, len(groups))
    answers["group"] = np.sort(rng.integers(0, len(groups), len(answers)))
    answers["digest"] = rng.integers(0, 200, len(answers))
    groups["correct"] = np.bincount(answers["group"], minlength=len(groups))
    groups["scored"] = groups["correct"] + 1
    rule = ExpertRule(1.0, 8, 0)
    kept = choose(ExpertIndex(groups, answers), rule).kept
    problem = groups["prompt"][answers["group"]]
    assert np.bincount(problem[kept]).tolist() == [8] * 3_000
    for one in (0, 1, 1_500, 2_999):
        mine = np.flatnonzero(problem == one)
        alone = ExpertIndex(groups, answers[mine])
        assert mine[choose(alone, rule).kept].tolist() == kept[problem[kept] == one].tolist()


def test_every_answer_of_a_stretch_has_the_same_chance(memory_storage):
    storage = memory_storage()
    write(storage, [Group("a", n, n, (Answer((n,)), Answer((n,), "wrong"))) for n in range(10)])
    drawn = Counter(select(storage, ExpertRule(1.0, 2, seed))[1][0].step for seed in range(150))
    assert drawn.keys() == {0, 1, 2, 3, 4}
    assert all(12 < count < 50 for count in drawn.values())  # 30 expected, standard deviation 5


def test_the_earliest_of_identical_answers_is_that_of_the_earliest_step_whatever_came_in_first(memory_storage):
    storage = memory_storage()
    same = (Answer((1, 1), "wrong"), Answer((5, 5)), Answer((5, 5)))
    write(storage, [Group("a", 0, 7, same), Group("a", 2, 3, same), Group("a", 1, 3, same)])
    assert select(storage, ExpertRule(1.0, 9, 0))[1] == [Found("a", 3, 1, 1, (5, 5))]


def test_where_nothing_was_trained_the_last_steps_at_which_groups_came_in_count_for_candidates_and_rate(memory_storage):
    storage = memory_storage()
    write(
        storage,
        [
            Group("a", 0, 2, (Answer((1,)), Answer((2,)))),
            Group("a", 1, 30, (Answer((3,)), Answer((4,), "wrong"), Answer((5,), "wrong"), Answer((6,), "wrong"))),
            Group("b", 1, 47, (Answer((7,)), Answer((8,), "error"))),
        ],
    )
    report, rows, rates = select(storage, ExpertRule(1.0, 9, 0, last_steps=2))
    assert [row.tokens for row in rows] == [(3,), (7,)]
    assert rates == {"a": 0.25, "b": 1.0}
    assert report.per_step == {30: 1, 47: 1}
    assert select(storage, ExpertRule(1.0, 9, 0, last_steps=1))[0].prompts == 1
    assert select(storage, ExpertRule(1.0, 9, 0, last_steps=99)) == select(storage, ExpertRule(1.0, 9, 0))
