import json
from pathlib import Path
from typing import Any

import pytest

from cluster.config import RunConfig, unflatten
from cluster.machine import MIB, Machine
from cluster.preflight import Plan, check, check_evaluation
from cluster.settings import Refused, load

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
