import importlib
import json
import re
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.gold_check import GoldCheck, ProblemSet, check_gold, problem_sets
from rollout.config import DataConfig
from rollout.problem_files import ProblemFiles, TrainingSource, load_files
from rollout.problems import RawProblem
from verifiers.pool import VerifierUnavailable
from verifiers.spec import VerifierSpec

VERIFIERS = '''
import os, time
from verifiers.records import Verdict

class _Base:
    name, version = "mine", "1"
    def gold(self, reference):
        return reference

class Hangs(_Base):
    def score(self, request):
        time.sleep(60)

class Dies(_Base):
    def score(self, request):
        os._exit(3)

class DislikesTheEmpty:
    """Raises over the empty answer, as user functions do that take a last word."""
    name, version = "mine", "1"
    def score(self, request):
        last = request.response.split()[-1]
        return Verdict(float(last == request.reference), "wrong", self.name, self.version)

class HangsAtAll(_Base):
    gold = None
    def score(self, request):
        time.sleep(60)

def no_opinion(completions, **columns):
    return [None]

class ByColumn:
    """Right is what the row's column `right` says."""
    name, version = "mine", "1"
    def score(self, request):
        right = request.response == request.extras["right"]
        return Verdict(float(right), "correct" if right else "wrong", self.name, self.version)
'''


def raw(number: int, answer: str, file: str = "a.jsonl", **more: str) -> RawProblem:
    return RawProblem(str(number), f"What is {number}?", answer, f"{file}:{number}", **more)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of verifiers that scoring processes find as they find a user's."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(VERIFIERS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_set_of_right_answers_passes_and_a_sample_of_it_is_enough() -> None:
    one = ProblemSet("a.jsonl", VerifierSpec("math"), [raw(i, f"so it is #### {i}") for i in range(300)])
    (check,) = check_gold([one], 64, 0.95, seed=0, processes=2)
    assert (check.checked, check.rejected, check.passes(1.0)) == (64, [], True)
    assert check.line() == "a.jsonl: 64 of 64 gold answers score as correct with 'math'"
    assert check.rows() == []


def test_the_sample_follows_from_the_seed() -> None:
    one = ProblemSet("a.jsonl", VerifierSpec("math"), [raw(i, str(i), response="no") for i in range(100)])

    def rejected(seed: int) -> list[str]:
        (check,) = check_gold([one], 8, 0.01, seed, processes=2)
        return [problem.id for problem, _, _ in check.rejected]

    assert rejected(0) == rejected(0) != rejected(1)
    assert len(rejected(0)) == 8


def test_wrong_answers_are_told_by_row_with_gold_verdict_and_remedy() -> None:
    problems = [raw(i, str(i), response=f"#### {i}") for i in range(10)] + [raw(10, "10", response="#### 11")]
    (check,) = check_gold([ProblemSet("a.jsonl", VerifierSpec("math"), problems)], 64, 0.95, seed=0, processes=1)
    assert (check.checked, check.passes(0.95), check.passes(0.9)) == (11, False, True)
    summary, row = check.refusal(0.95)
    assert summary.startswith(
        "a.jsonl: 10 of 11 gold answers score as correct with 'math', and data.gold_floor=0.95 asks for 95%"
    )
    assert "see whether data.answer_key is the reference" in summary
    assert summary.endswith("or start all the same with data.check_gold=0")
    assert row == "a.jsonl:10 (id '10'): gold answer '#### 11' is wrong, answered '11', expected '10'"


def test_of_many_wrong_answers_five_are_shown() -> None:
    problems = [raw(i, str(i), response="no") for i in range(40)]
    (check,) = check_gold([ProblemSet("a.jsonl", VerifierSpec("exact"), problems)], 40, 0.5, seed=0, processes=1)
    assert check.checked == 24  # of 40 more than half are wrong already
    assert check.line() == "a.jsonl: 0 of 24 gold answers score as correct with 'exact' (16 more were not asked for)"
    assert len(check.rows()) == 6
    assert check.rows()[-1] == "and 19 more"


def test_a_verifier_that_hangs_is_killed_and_the_set_given_up_soon(own: str) -> None:
    one = ProblemSet("a.jsonl", VerifierSpec(f"{own}:Hangs", timeout_s=0.3), [raw(i, "x") for i in range(64)])
    began = time.monotonic()
    (check,) = check_gold([one], 64, 0.95, seed=0, processes=4)
    assert time.monotonic() - began < 40
    assert check.checked == 32
    assert {verdict.status for _, _, verdict in check.rejected} == {"timeout"}
    assert "is timeout, no verdict within 0.3 s; its process was killed" in check.rows()[0]


def test_a_verifier_that_dies_is_an_error_and_no_wrong_answer(own: str) -> None:
    (check,) = check_gold([ProblemSet("a", VerifierSpec(f"{own}:Dies"), [raw(1, "x")])], 4, 1.0, seed=0, processes=1)
    assert [verdict.status for _, _, verdict in check.rejected] == ["error"]


def checked(spec: VerifierSpec, problems: list[RawProblem], floor: float = 0.95, processes: int = 1) -> GoldCheck:
    (check,) = check_gold([ProblemSet("a", spec, problems)], 64, floor, seed=0, processes=processes)
    return check


def test_a_set_without_gold_answers_is_told_and_passes_when_its_references_can_be_read() -> None:
    check = checked(VerifierSpec("countdown"), [raw(1, "3,4>7")])
    assert (check.checked, check.rows(), check.passes(1.0)) == (0, [], True)
    assert check.line() == (
        "a: 1 of 1 references can be read by 'countdown', which makes no answer from them; data.response_key names a "
        "column of right responses"
    )


@pytest.mark.parametrize(
    ("name", "options", "good", "bad", "why"),
    [
        (
            "code",
            {},
            '{"cases": [{"input": "1", "output": "2"}]}',
            '{"input": ["1"], "output": ["2"]}',
            "a code reference looks like",
        ),
        ("regex", {}, r"\d+", "(", "no regular expression"),
        ("countdown", {}, "3,4>7", "7", "a countdown reference looks like '3,7,2,5>24'"),
        ("json_schema", {}, "{}", '{"type": "nothing"}', "not a JSON schema"),
        ("language", {}, "ko", "Klingon", "py3langid|no language has the code"),
        ("ifeval", {}, '{"instruction_id_list": ["punctuation:no_comma"]}', "4", "the row has no instructions"),
        (
            "judge",
            {"model": "m", "base_url": "http://127.0.0.1:9/v1"},
            "Paris",
            '[{"txt": "It greets."}]',
            "a mapping of",
        ),
        ("combine", {"parts": [{"name": "regex"}, {"name": "length"}]}, r"\d+", "(", "regex: ValueError"),
    ],
)
def test_references_that_cannot_be_read_are_refused_where_there_are_no_gold_answers(
    name: str, options: dict[str, Any], good: str, bad: str, why: str
) -> None:
    spec = VerifierSpec(name, json.dumps(options))
    assert checked(spec, [raw(1, good), raw(2, good)]).passes(1.0)  # no judge is asked: there is none at that port
    check = checked(spec, [raw(1, good), raw(2, bad)])
    assert [problem.id for problem, _ in check.unread] == ["2"]
    assert (check.passes(0.95), check.passes(0.5)) == (False, True)
    summary, row = check.refusal(0.95)
    assert summary.startswith(f"a: 1 of 2 references can be read by '{name}', which makes no answer")
    assert "see whether data.answer_key is the reference and verifier.name fits it" in summary
    assert summary.endswith("mend or drop the rows, or start all the same with data.check_gold=0")
    assert row.startswith(f"a.jsonl:2 (id '2'): reference {bad!r}: any answer is error, ")
    assert re.search(why, row)


def test_few_references_that_cannot_be_read_are_told_and_pass() -> None:
    check = checked(VerifierSpec("countdown"), [raw(i, "3,4>7" if i else "seven") for i in range(40)])
    assert check.passes(0.95)
    assert check.line().startswith("a: 39 of 40 references can be read")
    assert len(check.rows()) == 1


def test_rows_without_a_gold_answer_are_read_beside_those_that_have_one() -> None:
    problems = [raw(i, "3,4>7", response="3+4=7") for i in range(4)] + [raw(9, "seven")]
    check = checked(VerifierSpec("countdown"), problems)
    assert check.line() == (
        "a: 4 of 4 gold answers score as correct with 'countdown'; 0 of 1 references without one can be read"
    )
    assert (check.rejected, check.passes(0.95)) == ([], False)


def test_a_verifier_that_raises_over_the_empty_answer_alone_can_read_references(own: str) -> None:
    assert checked(VerifierSpec(f"{own}:DislikesTheEmpty"), [raw(1, "x")]).passes(1.0)


def test_a_function_without_opinion_is_no_fault_of_the_reference(own: str) -> None:
    assert checked(VerifierSpec(f"trl:{own}:no_opinion"), [raw(1, "x")]).passes(1.0)


def test_a_set_of_which_every_answer_hangs_is_given_up_soon(own: str) -> None:
    began = time.monotonic()
    check = checked(VerifierSpec(f"{own}:HangsAtAll", timeout_s=0.3), [raw(i, "x") for i in range(64)], processes=4)
    assert time.monotonic() - began < 40
    assert (len(check.read), check.passes(0.95)) == (32, False)
    assert "any answer is timeout, no verdict within 0.3 s" in check.rows()[0]


def test_further_columns_reach_the_verifier(own: str) -> None:
    problems = [raw(i, "", response="yes", extras='{"right": "yes"}') for i in range(3)]
    problems += [raw(9, "", response="yes", extras='{"right": "no"}')]
    (check,) = check_gold([ProblemSet("a", VerifierSpec(f"{own}:ByColumn"), problems)], 9, 0.1, seed=0, processes=1)
    assert [problem.id for problem, _, _ in check.rejected] == ["9"]


def test_a_verifier_that_cannot_be_loaded_where_answers_are_scored_is_told(own: str) -> None:
    file = Path(importlib.import_module(own).__file__ or "")  # imported here, and broken before it is imported there
    file.write_text("import nowhere\n")
    with pytest.raises(VerifierUnavailable, match="nowhere"):
        check_gold([ProblemSet("a", VerifierSpec(f"{own}:Hangs"), [raw(1, "x")])], 4, 1.0, seed=0, processes=1)


FUNCTIONS = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "mine/sums" and extra_info["index"] == int(ground_truth)
    return float(solution_str.endswith(f"#### {ground_truth}"))

def same_words(prompts, completions, solution, words, **columns):
    assert all(isinstance(prompt, list) and prompt[-1]["role"] == "user" for prompt in prompts)
    return [float(c[0]["content"] == w and s == "s") for c, w, s in zip(completions, words, solution)]
"""


@pytest.mark.parametrize(
    ("verifier", "row", "response"),
    [
        (
            "verl:{}:compute_score",
            {
                "data_source": "mine/sums",
                "prompt": [{"role": "user", "content": "What is 7?"}],
                "reward_model": {"style": "rule", "ground_truth": "7"},
                "extra_info": {"index": 7, "answer": "It is #### 7"},
            },
            "extra_info.answer",
        ),
        (
            "trl:{}:same_words",
            {"prompt": [{"role": "user", "content": "Say it."}], "solution": "s", "words": "hello"},
            "words",
        ),
    ],
)
def test_functions_written_for_verl_and_trl_judge_rows_written_for_them_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verifier: str, row: dict[str, Any], response: str
) -> None:
    module = f"functions_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps(row | {"prompt": "Another?", "answer": "7"}) + "\n")
    path, name = tmp_path / "train.parquet", verifier.format(module)
    files = load_files(DataConfig(path=path, eval_path=test, response_key=response), name)
    (train, _) = problem_sets(files, {"": VerifierSpec(name)})
    (check,) = check_gold([train], 4, 1.0, seed=0, processes=1)
    ((_, _, verdict),) = check.scored
    assert (verdict.status, verdict.feedback) == ("correct", "")


def test_each_source_and_each_held_out_set_of_its_own_is_checked_with_its_verifier() -> None:
    words, aime = [raw(1, "x", verifier="exact")], [raw(1, "x"), raw(2, "x")]
    sources = (TrainingSource("sums", 1.0, [raw(1, "x")]), TrainingSource("words", 1.0, words))
    named = (("sums", sources[0].problems), ("words", words), ("aime", aime))
    files = ProblemFiles(sources, [raw(9, "x"), *aime], named, (), ())
    sets = problem_sets(files, {"": VerifierSpec("math"), "exact": VerifierSpec("exact")})
    assert [(one.name, one.verifier, len(one.problems)) for one in sets] == [
        ("sums", "math", 1),
        ("words", "exact", 1),
        ("aime", "math", 2),
    ]


def test_a_set_whose_rows_name_several_verifiers_is_checked_with_each() -> None:
    problems = [raw(1, "1"), raw(2, "Paris", verifier="exact"), raw(3, "3", verifier="math"), raw(4, "4")]
    files = ProblemFiles((TrainingSource("mixed", 1.0, problems),), [], (("mixed", problems),), (), ())
    own = VerifierSpec("math")
    sets = problem_sets(files, {"": own, "math": own, "exact": VerifierSpec("exact")})
    assert [(one.name, one.verifier, [p.id for p in one.problems]) for one in sets] == [
        ("mixed", "math", ["1", "3", "4"]),
        ("mixed", "exact", ["2"]),
    ]
    checks = check_gold(sets, 64, 1.0, seed=0, processes=1)
    assert [check.line() for check in checks] == [
        "mixed: 3 of 3 gold answers score as correct with 'math'",
        "mixed: 1 of 1 gold answers score as correct with 'exact'",
    ]
