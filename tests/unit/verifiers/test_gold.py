import pytest

from verifiers.choice import Choice
from verifiers.countdown import Countdown
from verifiers.exact import Exact
from verifiers.gold import gold_response
from verifiers.math_answer import MathAnswer
from verifiers.noise import NoiseCorrected
from verifiers.numeric import Numeric
from verifiers.overlong import Overlong
from verifiers.records import ScoreRequest, Verdict
from verifiers.step_rewards import StepRewards

REFERENCES = [
    "72",
    "$1,234.50",
    r"\frac{1}{2}",
    "x + 1",
    "(3, 4)",
    "Paris",
    "worked\nout: 70 + 2\n#### 72",
    r"so \boxed{7}",
]


class Silent:
    """A verifier whose reference is no answer."""

    name, version = "silent", "1"

    def score(self, request: ScoreRequest) -> Verdict:
        raise NotImplementedError


@pytest.mark.parametrize("verifier", [MathAnswer(), MathAnswer(["boxed"]), MathAnswer(["answer_is"]), Exact()])
@pytest.mark.parametrize("reference", REFERENCES)
def test_a_gold_response_scores_as_correct_and_that_of_another_row_as_wrong(verifier, reference: str) -> None:
    gold, other = gold_response(verifier, reference), gold_response(verifier, "a fish")
    assert gold is not None
    assert other is not None
    assert verifier.score(ScoreRequest("?", gold, reference)).status == "correct"
    assert verifier.score(ScoreRequest("?", other, reference)).status == "wrong"


@pytest.mark.parametrize("outer", [Overlong(), StepRewards("math", delta=True), NoiseCorrected()])
def test_what_changes_only_a_reward_has_the_gold_response_of_what_it_wraps(outer) -> None:
    gold = gold_response(outer, "72")
    assert gold == gold_response(MathAnswer(), "72")
    assert gold is not None


@pytest.mark.parametrize(
    ("verifier", "reference"),
    [
        (MathAnswer(["last_number"]), "so 70 + 2 = #### 72"),
        (Numeric(), "0.333"),
        (Numeric(rel_tol=0.01, after="</think>"), "so it is #### 1.5e-3"),
        (Choice(), "B"),
        (Choice(after="</think>"), "(C)"),
        (Choice(index_from=0), "2"),
    ],
)
def test_a_gold_response_is_said_where_the_options_have_it_looked_for(verifier, reference: str) -> None:
    gold = gold_response(verifier, reference)
    assert gold is not None
    assert verifier.score(ScoreRequest("?", gold, reference)).status == "correct"


def test_the_text_of_an_option_is_a_gold_response_too() -> None:
    request = ScoreRequest("?", Choice().gold("Rome"), "Rome", extras={"options": ["Paris", "Rome"]})
    assert Choice().score(request).answer == "B"


def test_a_response_that_the_row_has_comes_first() -> None:
    assert gold_response(MathAnswer(), "72", given="It is 72.") == "It is 72."
    assert gold_response(Silent(), "72", given="def f(): ...") == "def f(): ..."


def test_there_is_none_where_the_reference_is_no_answer() -> None:
    assert gold_response(Silent(), "assert f() == 3") is None
    assert gold_response(Countdown(), "3,7,2,5>24") is None
