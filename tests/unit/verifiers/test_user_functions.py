"""Functions as users of the three systems have them, in a module of their own, called through the adapters."""

import asyncio
import sys
from pathlib import Path

import pytest

from verifiers.catalogue import load
from verifiers.pool import VerifierProcesses
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec
from verifiers.user_function import scalar

MODULE = """
import asyncio
import numpy as np

# -- TRL

def standard(prompts, completions, answer, **kwargs):
    return [1.0 if c.strip() == a else 0.0 for c, a in zip(completions, answer, strict=True)]

def conversational(completions, ground_truth, **kwargs):
    assert "log_metric" in kwargs and "prompts" in kwargs and "completion_ids" not in kwargs
    contents = [completion[0]["content"] for completion in completions]
    kwargs["log_metric"]("length", float(len(contents[0])))
    kwargs["log_extra"]("content", contents)
    return [float(content in truths) for content, truths in zip(contents, ground_truth, strict=True)]

async def asynchronous(prompts, completions, **kwargs):
    await asyncio.sleep(0.01)
    return [0.25 * len(completion) for completion in completions]

def only_math(completions, task, **kwargs):
    return [1.0 if t == "math" else None for t in task]

def no_rest(completions):
    return [float(len(c)) for c in completions]

def needs_ids(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]

def too_many(completions, **kwargs):
    return [1.0, 1.0]

# -- OpenRLHF

def reward_func(queries, prompts, labels):
    rewards = []
    for query, prompt, label in zip(queries, prompts, labels):
        assert query.startswith(prompt)
        rewards.append(float(query[len(prompt):] == label))
    return np.array(rewards)

def reward_dict(queries, prompts, labels):
    value = np.array([len(queries[0]) / 10], dtype=np.float32)
    return {"rewards": value - 5.0, "scores": value, "extra_logs": {"size": value, "text": ["x"]}}

def reward_without(queries, prompts, labels):
    return {"scores": [1.0]}

# -- verl

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "openai/gsm8k" and extra_info["index"] == 7
    return solution_str == ground_truth

def score_dict(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):
    right = solution_str in ground_truth["any_of"]
    return {"score": (1.0 if right else -1.0) + bonus, "acc": right, "pred": solution_str}

async def score_async(data_source, solution_str, ground_truth, extra_info):
    await asyncio.sleep(0)
    return 0.75

def score_nothing(data_source, solution_str, ground_truth, extra_info):
    return None

NOT_A_FUNCTION = 3
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def verdict(kind: str, function: str, response: str, reference: str = "", extras=None, **options):
    verifier = load(f"{kind}:user_rewards:{function}", options)
    return verifier.score(ScoreRequest("Q: ", response, reference, extras=extras or {}))


def test_trl_passes_texts_and_columns_as_lists_of_one() -> None:
    assert verdict("trl", "standard", " 72", "72").reward == 1.0
    assert verdict("trl", "standard", "71", "72").status == "wrong"
    assert verdict("trl", "standard", "72", "72", {"answer": "73"}).reward == 0.0  # the row's own column wins


def test_trl_is_conversational_when_the_prompt_is_a_list_of_messages() -> None:
    row = {"prompt": [{"role": "user", "content": "Q"}], "ground_truth": ["72", "seventy-two"]}
    found = verdict("trl", "conversational", "72", "", row)
    assert (found.reward, found.status, found.parts) == (1.0, "correct", {"length": 2.0})
    assert (
        verdict(
            "trl",
            "conversational",
            "72",
            "72",
            {"prompt": [{"role": "user", "content": "Q"}]},
            reference_as="ground_truth",
        ).reward
        == 1.0
    )


def test_trl_functions_may_be_async_and_call_after_call_share_a_loop() -> None:
    verifier = load("trl:user_rewards:asynchronous")
    rewards = [verifier.score(ScoreRequest("", "x" * n, "")).reward for n in (1, 2, 4)]
    assert rewards == [0.25, 0.5, 1.0]


def test_none_of_trl_is_no_opinion_and_no_reward() -> None:
    found = verdict("trl", "only_math", "x", "", {"task": "prose"})
    assert (found.reward, found.status, found.facts) == (None, "error", {"no_opinion": 1.0})
    assert "has no opinion" in found.feedback
    assert verdict("trl", "only_math", "x", "", {"task": "math"}).reward == 1.0


def test_a_function_gets_only_what_it_takes_and_what_is_missing_is_named() -> None:
    assert verdict("trl", "no_rest", "four").reward == 4.0
    with pytest.raises(
        TypeError, match=r"needs_ids wants .*completion_ids.*could get answer, completions, log_extra.*reference_as"
    ):
        verdict("trl", "needs_ids", "four")


def test_a_list_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 was asked about, 2 came back"):
        verdict("trl", "too_many", "x")


def test_openrlhf_gets_the_query_as_prompt_and_response_in_one() -> None:
    assert verdict("openrlhf", "reward_func", "72", "72").reward == 1.0
    assert verdict("openrlhf", "reward_func", "71", "72").reward == 0.0


def test_scores_of_openrlhf_decide_and_its_logs_are_parts() -> None:
    found = verdict("openrlhf", "reward_dict", "1234567")  # with the prompt 10 characters
    assert (found.reward, found.status, found.parts) == (-4.0, "correct", {"size": 1.0})
    assert verdict("openrlhf", "reward_dict", "1").status == "wrong"
    with pytest.raises(ValueError, match="without 'rewards'"):
        verdict("openrlhf", "reward_without", "1")


def test_verl_gets_its_columns_and_a_bool_is_a_reward() -> None:
    row = {"data_source": "openai/gsm8k", "extra_info": {"index": 7}}
    assert verdict("verl", "compute_score", "72", "72", row).reward == 1.0
    assert verdict("verl", "compute_score", "71", "72", row).reward == 0.0


def test_acc_of_verl_decides_and_the_ground_truth_is_the_rows_own() -> None:
    row = {"reward_model": {"style": "rule", "ground_truth": {"any_of": ["72", "0x48"]}}}
    found = verdict("verl", "score_dict", "0x48", '{"any_of": ["72", "0x48"]}', row, reward_kwargs={"bonus": -0.75})
    assert (found.reward, found.status, found.parts) == (0.25, "correct", {"acc": 1.0})
    assert verdict("verl", "score_dict", "1", "", row).status == "wrong"


def test_async_scores_of_verl_and_the_threshold() -> None:
    assert verdict("verl", "score_async", "x").status == "correct"
    assert verdict("verl", "score_async", "x", threshold=0.75).status == "wrong"


def test_what_is_no_number_is_an_error_and_not_zero() -> None:
    with pytest.raises(ValueError, match="one finite number, got None"):
        verdict("verl", "score_nothing", "x")
    for value in ("1", [1.0, 2.0], float("nan"), float("inf"), {}):
        with pytest.raises(ValueError, match="one finite number"):
            scalar(value)


def test_the_version_changes_with_the_users_file() -> None:
    before = load("trl:user_rewards:standard").version
    path = Path(sys.modules["user_rewards"].__file__)
    path.write_text(MODULE + "\n# changed\n")
    assert load("trl:user_rewards:standard").version != before
    assert load("trl:user_rewards:standard").name == "trl:user_rewards:standard"


def test_they_run_in_the_pools_processes() -> None:
    async def all_three() -> list[Verdict]:
        pool = VerifierProcesses(processes=2)
        await pool.start()
        try:
            request = ScoreRequest("Q: ", "72", "72", extras={"task": "prose"})
            names = ("trl:user_rewards:asynchronous", "openrlhf:user_rewards:reward_func", "trl:user_rewards:only_math")
            return [(await pool.score(VerifierSpec(name), [request] * 3))[-1] for name in names]
        finally:
            await pool.close()

    verdicts = asyncio.run(all_three())
    assert [(verdict.reward, verdict.status) for verdict in verdicts] == [
        (0.5, "wrong"),
        (1.0, "correct"),
        (None, "error"),
    ]
    assert verdicts[0].verifier == "trl:user_rewards:asynchronous"


@pytest.mark.parametrize(
    ("name", "error", "why"),
    [
        ("trl:user_rewards:standrad", ValueError, "did you mean 'standard'"),
        ("verl:user_rewards:NOT_A_FUNCTION", TypeError, "not a function"),
        ("openrlhf:user_rewards", ValueError, "package.module:name"),
        ("verl:no_such_module:f", ValueError, "cannot be imported"),
    ],
)
def test_a_wrong_name_is_refused(name: str, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        load(name)


def test_an_option_of_another_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match="its options are: threshold, reward_kwargs"):
        load("verl:user_rewards:compute_score", {"reference_as": "x"})
