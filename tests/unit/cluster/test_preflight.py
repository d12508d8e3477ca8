import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from actors.verifier_pool import VerifierPool
from cluster.config import RunConfig, unflatten
from cluster.machine import MIB, Machine
from cluster.preflight import Plan, check, check_evaluation, data_problems, model_of
from cluster.settings import Refused, load
from verifiers.records import ScoreRequest

BIG = Machine(memory=1 << 40, shared_memory=1 << 40, cores=2, has_gpu=False)
ROWS = [{"id": f"q{i}", "question": f"What is {i} + {i}?", "answer": f"#### {2 * i}"} for i in range(20)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(data: Path, **changes: Any) -> RunConfig:
    flat = {"data.path": data, "model.scratch.tokenizer": "bytes", "rollout.context_length": 128}
    return RunConfig.model_validate(unflatten(flat | {key.replace("__", "."): value for key, value in changes.items()}))


def refusal(run: RunConfig, run_dir: Path, machine: Machine = BIG, resume: bool = False) -> list[str]:
    with pytest.raises(Refused) as refused:
        check(run, run_dir, machine, resume)
    return list(refused.value.problems)


def test_a_good_run_gives_a_plan_and_leaves_nothing_behind(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", ROWS)
    plan = check(config(data, data__eval_fraction=0.2), tmp_path / "runs" / "a", BIG)
    assert isinstance(plan, Plan)
    assert plan.train_problems + plan.held_out_problems == 20
    assert plan.held_out_problems == 4
    assert plan.longest_prompt == len("What is 19 + 19?") + 2  # a byte is a token; two markers of the chat template
    text = str(plan)
    assert "rloop: 2 × (RL 50 steps → RFT of the policy it started from)" in text
    assert "1 rollout worker, 1 learner rank, 2 verifier processes, on 2 cores" in text
    assert "Qwen3 from scratch, 0.47 M parameters" in text  # 260 × 96 + 4 × 110,848 + 96
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_countdown_needs_no_file(tmp_path: Path) -> None:
    run = RunConfig.model_validate({"data": {"task": "countdown"}, "verifier": {"name": "countdown"}})
    plan = check(run, tmp_path / "a", BIG)
    assert (plan.train_problems, plan.held_out_problems) == (200, 60)


def test_the_plan_tells_what_was_chosen_and_that_the_gold_answers_score(tmp_path: Path) -> None:
    plan = check(config(write(tmp_path / "train.jsonl", ROWS)), tmp_path / "a", BIG)
    lines = [" ".join(line.split()) for line in str(plan).splitlines()]
    assert (
        "data set train.jsonl: 20 × rows of problem and answer: problem from 'question' (text); reference from "
        "'answer'; id from 'id'"
    ) in lines
    assert [line for line in lines if line.startswith("gold")] == [
        "gold answers train: 18 of 18 gold answers score as correct with 'math'"
    ]


def test_a_set_whose_gold_answers_do_not_score_is_refused_with_rows_and_remedy(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}?", "answer": "", "label": "no answer"} for i in range(30)]
    for i, row in enumerate(rows):
        row["answer"] = "so it is ####" if i % 2 else f"#### {i}"
    data = write(tmp_path / "train.jsonl", rows)
    problems = refusal(config(data, data__eval_fraction=0.1), tmp_path / "a")
    assert problems[0].startswith("train: 8 of 16 gold answers score as correct with 'math' (11 more were not")
    assert "asked for), and data.gold_floor=0.95 asks for 95%" in problems[0]
    assert "train.jsonl:2 (id '2'): gold answer '#### ' is error, ValueError: the reference is empty" in problems[1]
    assert problems[6].startswith("and ")
    plan = check(config(data, data__check_gold=0), tmp_path / "a", BIG)
    assert (plan.gold, plan.train_problems) == ((), 27)
    few = check(config(data, data__gold_floor=0.01), tmp_path / "a", BIG)
    assert "train.jsonl:2 (id '2'): gold answer '#### ' is error" in str(few)


def test_a_set_may_name_its_verifier_and_the_check_asks_that_one(tmp_path: Path) -> None:
    sums = write(tmp_path / "sums.jsonl", ROWS)
    words = write(tmp_path / "words.jsonl", [{"input": f"Spell {i}.", "label": f"word{i}"} for i in range(20)])
    sources = [{"path": sums, "weight": 3}, {"path": words, "weight": 1, "verifier": "exact"}]
    run = config(sums, data__sources=sources, data__path=None)
    plan = check(run, tmp_path / "a", BIG)
    assert plan.held_out_sets == {"sums": 2, "words": 2}
    assert {gold.set.name: gold.set.verifier for gold in plan.gold} == {"sums": "math", "words": "exact"}
    sources[1]["verifier"] = "exakt"
    assert (
        "verifier of a set: no verifier is called 'exakt'; did you mean 'exact'?"
        in refusal(config(sums, data__sources=sources, data__path=None), tmp_path / "a")[0]
    )


def test_references_that_the_verifier_cannot_read_are_refused_though_it_makes_no_gold_answers(tmp_path: Path) -> None:
    rows = [
        {"question": f"A number of {i} digits?", "answer": r"\d" * i + ("(" if i % 2 else "")} for i in range(1, 21)
    ]
    data = write(tmp_path / "train.jsonl", rows)
    problems = refusal(config(data, verifier__name="regex", data__eval_fraction=0.05), tmp_path / "a")
    assert "references can be read by 'regex', which makes no answer from them" in problems[0]
    assert "and data.gold_floor=0.95 asks for 95%" in problems[0]
    assert (
        r"train.jsonl:1 (id '1'): reference '\\d(': any answer is error, ValueError: the reference is no" in problems[1]
    )
    plan = check(config(data, verifier__name="regex", data__gold_floor=0.1), tmp_path / "a", BIG)
    assert "references can be read by 'regex'" in str(plan)


def test_rows_may_name_the_verifiers_of_the_run_and_each_is_asked_for_its_own(tmp_path: Path) -> None:
    words = [{"question": f"Spell {i}.", "answer": f"word {i}", "verifier": "exact"} for i in range(20)]
    data = write(tmp_path / "train.jsonl", [*ROWS, *words])
    run = config(data, verifier__others={"exact": {"timeout_s": 2.0}})
    plan = check(run, tmp_path / "a", BIG)
    assert [(gold.set.name, gold.set.spec.name, gold.set.spec.timeout_s, gold.passes(1.0)) for gold in plan.gold] == [
        ("train", "math", None, True),
        ("train", "exact", 2.0, True),
    ]
    problems = refusal(config(data), tmp_path / "a")
    assert problems[0].startswith(f"{data}:21: 'verifier' names the verifier 'exact', the run has math; give it")


def test_every_prompt_of_a_mixed_file_is_judged_in_the_pool_by_the_verifier_of_its_row(tmp_path: Path) -> None:
    rows = [
        {"question": f"{i} halves?", "answer": "1/2", "verifier": name}
        for i, name in enumerate(["math", "exact", None] * 6)
    ]
    run = config(write(tmp_path / "train.jsonl", rows), verifier__others={"exact": {}})
    data, problems = data_problems(run, model_of(run)[1])
    assert data is not None
    assert problems == []
    prompts = (*data.train, *data.held_out)
    requests = [ScoreRequest(p.text, "The answer is 0.5.", p.reference, verifier=p.verifier) for p in prompts]

    async def judged() -> list[Any]:
        pool = VerifierPool(run.verifier_specs(), 1)
        await pool.start()
        try:
            return await pool.score(requests)
        finally:
            await pool.close()

    found = Counter((verdict.verifier, verdict.status) for verdict in asyncio.run(judged()))
    assert found == {("math", "correct"): 12, ("exact", "wrong"): 6}


def test_bad_rows_are_counted_and_listed_where_they_may_be_skipped(tmp_path: Path) -> None:
    bad = [{"id": "long", "question": "x" * 300, "answer": "1"}, *[{"id": f"b{i}", "question": ""} for i in range(7)]]
    data = write(tmp_path / "train.jsonl", [*ROWS, *bad])
    plan = check(config(data, data__on_bad_row="skip", data__eval_fraction=0.2), tmp_path / "a", BIG)
    assert plan.train_problems + plan.held_out_problems == 20
    text = str(plan)
    assert "8 bad rows, left out" in text
    assert (
        "train.jsonl:22: 'question' must be text or a number, got ''; mend or drop the row; no 'answer', the row has"
        in text
    )
    assert "and 3 more; all are in skipped_rows.txt of the run" in text


def test_the_plan_tells_the_held_out_sets(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", ROWS)
    hard = write(tmp_path / "hard.jsonl", [{"question": f"What is {i}!?", "answer": "1"} for i in range(3)])
    plan = check(config(data, data__eval_fraction=0.2, data__eval_sets={"hard": hard}), tmp_path / "a", BIG)
    assert plan.held_out_sets == {"held-out": 4, "hard": 3}
    assert "16 training and 7 held-out problems (held-out: 4, hard: 3); the longest" in str(plan)


def test_a_held_out_problem_that_is_trained_is_refused_before_anything_starts(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", ROWS)
    (problem,) = refusal(config(data, data__eval_path=write(tmp_path / "test.jsonl", ROWS[7:8])), tmp_path / "a")
    assert problem.startswith("test.jsonl:1 (set 'held-out') is also the training problem train.jsonl:8: 'What is 7")


def test_problems_of_every_kind_are_listed_together(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", [*ROWS, {"id": "q99", "question": "", "answer": "1"}])
    (tmp_path / "runs" / "a").mkdir(parents=True)
    run = config(data, model__path=tmp_path / "nowhere", verifier__name="maths")
    problems = refusal(run, tmp_path / "runs" / "a", Machine(1 << 40, 1 * MIB, 2, False))
    assert [any(part in problem for problem in problems) for part in ("rloop resume", "nowhere", ":21", "'math'")] == [
        True,
        True,
        True,
        True,
    ]


def test_too_little_shared_memory_is_among_the_problems(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", ROWS)
    (problem,) = refusal(config(data), tmp_path / "a", Machine(1 << 40, 1 * MIB, 2, False))
    assert problem.startswith("/dev/shm must hold")


def test_a_run_directory_that_exists_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", ROWS)
    for name in ("a", "a-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    run_dir = tmp_path / "runs" / "a"
    (problem,) = refusal(config(data), run_dir)
    assert problem == (
        f"{run_dir}: a run of this name exists; go on with it: rloop resume {run_dir}, or start another: --name a-3"
    )


def test_resuming_nothing_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", ROWS)
    assert "no run to resume" in refusal(config(data), tmp_path / "none", resume=True)[0]


def test_a_prompt_longer_than_the_context_is_named_with_its_row(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", [*ROWS, {"id": "long", "question": "x" * 300, "answer": "1"}])
    (problem,) = refusal(config(data), tmp_path / "a")
    assert problem.startswith("train.jsonl:21 (id 'long')")
    assert "rollout.context_length=128" in problem


def test_a_missing_checkpoint_is_refused_before_evaluation(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(Refused, match="does not exist"):
        check_evaluation(config(data), tmp_path / "none", BIG)


def test_learner_options_that_lead_nowhere_are_refused_before_anything_starts(tmp_path: Path) -> None:
    changes = {"loss": "gsop", "advantage": "mine:Advantage", "optim__name": "adamw_8bit"}
    rl = {f"trainer__rl__{key}": value for key, value in changes.items()}
    run = config(write(tmp_path / "a.jsonl", ROWS), **rl, trainer__fused_kernels=True)
    problems = refusal(run, tmp_path / "run")
    for part in (
        "trainer.rl.loss: no loss is called 'gsop'; did you mean 'gspo'",
        "trainer.rl.advantage: advantage 'mine:Advantage' cannot be imported",
        "trainer.fused_kernels=true needs a GPU",
        "adamw_8bit needs torchao",
    ):
        assert any(part in problem for problem in problems), part


def test_a_metric_of_a_held_out_set_that_is_not_there_is_refused(tmp_path: Path) -> None:
    names = ["eval.best_by=hardre/pass@8", "schedule.end.overfit_metric=harder/pass@8"]
    run = load(Path(__file__).parents[3] / "recipes" / "countdown.yaml", names)
    sentence = (
        "eval.best_by=hardre/pass@8: there is no held-out set 'hardre', only 3 numbers, 4 numbers, harder, other form"
    )
    assert [problem for problem in refusal(run, tmp_path / "run") if "held-out set" in problem] == [sentence]


def test_what_a_cluster_elsewhere_has_is_not_judged_by_this_machine(tmp_path: Path) -> None:
    changes = {"trainer__fused_kernels": True, "trainer__rl__optim__name": "adamw_8bit"}
    run = config(write(tmp_path / "a.jsonl", ROWS), cluster__ray_address="auto", **changes)
    assert check(run, tmp_path / "run", BIG).train_problems > 0
