import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.config import RunConfig
from cluster.data_inspect import inspect
from cluster.exits import Exit
from cluster.settings import Refused, load

RECIPE = Path(__file__).parents[3] / "recipes" / "gsm8k.yaml"
VERL = [
    {
        "data_source": "mine/sums",
        "prompt": [{"role": "user", "content": f"What is {i} + {i}?"}],
        "reward_model": {"style": "rule", "ground_truth": str(2 * i)},
        "extra_info": {"index": i},
    }
    for i in range(100)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def looked_at(tmp_path: Path, *overrides: str, rows: int = 2) -> tuple[Exit, str, dict[str, Any]]:
    """Exit code, what is printed, what is written."""
    config: RunConfig = load(RECIPE, ["verifier.processes=1", "data.check_gold=16", *overrides])
    console = Console(record=True, width=160, quiet=False)
    code = inspect(config, rows, tmp_path / "report.json", console)
    return code, console.export_text(), json.loads((tmp_path / "report.json").read_text())


def test_rows_columns_lengths_prompts_and_verdicts_are_shown_and_written(tmp_path: Path) -> None:
    data = write(tmp_path / "sums.jsonl", VERL)
    code, text, report = looked_at(tmp_path, f"data.path={data}", "data.instruction=Be brief.")
    assert code == Exit.DONE
    assert "sums.jsonl: 100 × verl rows: problem from 'prompt' (messages); reference from 'reward_model.ground" in text
    train, held_out = report["sets"]
    # a byte is a token; the instruction has 9, the blank line 2, the template 2, the question 14 to 16
    assert train == {
        "name": "sums",
        "use": "train, 100% of groups",
        "problems": 90,
        "tokens": {"min": 27, "median": 29, "p99": 29, "max": 29},
    }
    assert (held_out["name"], held_out["problems"]) == ("held-out", 10)
    assert "A prompt may have 1535 (rollout.context_length - 1); with more than 1280 its answers end before" in text
    assert len(report["rows"]) == 2
    row = report["rows"][0]
    number = row["extras"]["extra_info"]["index"]
    assert row["prompt"] == f"<|user|>Be brief.\n\nWhat is {number} + {number}?<|assistant|>"
    assert row["prompt"] in text
    assert (row["reference"], row["gold"]) == (str(2 * number), f"#### {2 * number}")
    assert (row["verdict"]["status"], row["verdict"]["answer"]) == ("correct", str(2 * number))
    assert "sums: 16 of 16 gold answers score as correct with 'math'" in text
    assert [(one["set"], one["checked"], one["accepted"], one["passes"]) for one in report["gold"]] == [
        ("sums", 16, 16, True)
    ]


def test_what_a_run_would_refuse_is_listed_and_ends_with_one(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": str(i), "gold": str(i + (i < 9))} for i in range(60)]
    data = write(tmp_path / "a.jsonl", [*rows, *[{"question": ""}] * 30])
    test = write(tmp_path / "test.jsonl", [{"question": "t?", "answer": "1", "gold": "1"}])
    asked = [
        f"data.path={data}",
        f"data.eval_path={test}",
        "data.response_key=gold",
        "data.check_gold=60",
        "data.gold_floor=0.8",
    ]
    code, text, report = looked_at(tmp_path, *asked)
    assert code == Exit.FAILED
    assert "30 bad rows, refused by a run (data.on_bad_row=skip leaves them out):" in text
    assert "and 10 more; --json FILE has all of them" in text
    assert len(report["skipped"]) == 30
    rejected = [row for one in report["gold"] for row in one["rejected"]]
    assert sorted(row["id"] for row in rejected) == [str(number) for number in range(1, 10)]
    assert [row["verdict"]["status"] for row in report["rows"]] == ["wrong", "wrong", "correct"]
    code, text, _ = looked_at(tmp_path, *asked, "data.on_bad_row=skip")
    assert code == Exit.DONE
    assert "30 bad rows, left out" in text


def test_references_that_cannot_be_read_are_listed_and_end_with_one(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": "3,4>7" if i % 2 else "seven"} for i in range(40)]
    asked = [f"data.path={write(tmp_path / 'a.jsonl', rows)}", "verifier.name=countdown"]
    code, text, report = looked_at(tmp_path, *asked)
    assert code == Exit.FAILED
    assert "references can be read by 'countdown', which makes no answer from them" in text
    assert "reference 'seven': any answer is error, ValueError: a countdown reference looks like" in text
    (gold,) = report["gold"]
    assert gold["passes"] is False
    assert {one["verdict"]["status"] for one in gold["unread"]} == {"error"}
    assert gold["read"] + len(gold["unread"]) == 8  # given up after the first round
    code, _, _ = looked_at(tmp_path, *asked, "data.gold_floor=0.1")
    assert code == Exit.DONE


def test_rows_that_name_verifiers_are_shown_with_theirs(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": f"{i}"} | ({"verifier": "exact"} if i % 2 else {}) for i in range(40)]
    asked = [f"data.path={write(tmp_path / 'a.jsonl', rows)}", "verifier.others={exact: {}}"]
    code, text, report = looked_at(tmp_path, *asked)
    assert code == Exit.DONE
    assert [(one["set"], one["verifier"], one["checked"]) for one in report["gold"]] == [
        ("a", "math", 16),
        ("a", "exact", 16),
    ]
    shown = {row["verifier"]: {int(row["reference"]) % 2} for row in report["rows"]}
    assert shown == {"math": {0}, "exact": {1}}
    assert "a: 16 of 16 gold answers score as correct with 'exact'" in text


def test_a_mixture_shows_its_shares(tmp_path: Path) -> None:
    sums = write(tmp_path / "sums.jsonl", VERL)
    words = write(tmp_path / "words.jsonl", [{"input": f"Spell {i}.", "label": f"word{i}"} for i in range(40)])
    sources = f"data.sources=[{{path: {sums}, weight: 3}}, {{path: {words}, weight: 1, verifier: exact}}]"
    code, _, report = looked_at(tmp_path, sources, rows=0)
    assert code == Exit.DONE
    assert [(one["name"], one["use"]) for one in report["sets"]] == [
        ("sums", "train, 75% of groups"),
        ("words", "train, 25% of groups"),
        ("sums", "held out"),
        ("words", "held out"),
    ]
    assert report["rows"] == []
    assert {one["verifier"] for one in report["gold"]} == {"math", "exact"}


def test_without_a_check_there_are_no_verdicts(tmp_path: Path) -> None:
    data = write(tmp_path / "sums.jsonl", VERL)
    code, text, report = looked_at(tmp_path, f"data.path={data}", "data.check_gold=0")
    assert code == Exit.DONE
    assert "gold answers: not checked, data.check_gold=0" in text
    assert report["gold"] == []


def test_data_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    config = load(RECIPE, [f"data.path={tmp_path}/none.jsonl"])
    with pytest.raises(Refused, match=r"none.jsonl: there is no such file"):
        inspect(config, 2, None, Console())
    with pytest.raises(Refused, match="there is no directory"):
        inspect(config, 2, tmp_path / "nowhere" / "report.json", Console())
