import pytest

from verifiers.records import ScoreRequest
from verifiers.tag_format import TagFormat


def verdict(response: str, **options):
    return TagFormat(**options).score(ScoreRequest("", response, ""))


def test_each_tag_once_in_order_and_nothing_outside() -> None:
    assert verdict("<think>2+2</think>\n<answer>4</answer>\n").reward == 1.0


@pytest.mark.parametrize(
    ("response", "why"),
    [
        ("", "tags are missing"),
        ("4", "tags are missing"),
        ("<answer>4</answer><think>2+2</think>", "expected <think>"),
        ("<think>a</think><think>b</think><answer>4</answer>", "expected <think>"),
        ("<think><answer>4</answer></think>", "expected <think>"),
        ("<think>a<answer>4</answer>", "expected <think>"),
        ("<think>a</think><answer>4</answer> and more", "outside the tags: 'and more'"),
        ("Well. <think>a</think><answer>4</answer>", "outside the tags: 'Well.'"),
        ("<think>a</think> so <answer>4</answer>", "outside the tags: 'so'"),
        ("<think> </think><answer>4</answer>", "<think> is empty"),
        ("<think>a</think><answer></answer>", "<answer> is empty"),
        ("<THINK>a</THINK><answer>4</answer>", "expected <think>"),
    ],
)
def test_anything_else_is_wrong_and_says_why(response: str, why: str) -> None:
    found = verdict(response)
    assert found.reward == 0.0
    assert why in found.feedback


def test_a_tag_that_the_template_opened_is_put_back() -> None:
    assert verdict("2+2</think><answer>4</answer>", prefilled="<think>").reward == 1.0
    assert verdict("<think>2+2</think><answer>4</answer>", prefilled="<think>").reward == 0.0


def test_other_tags_text_outside_and_empty_tags_where_allowed() -> None:
    assert verdict("So: <sql></sql>.", tags=["sql"], outside=True, empty=True).reward == 1.0


@pytest.mark.parametrize("tags", [[], "think", ["<think>"], ["a", "a"], [1]])
def test_tags_are_different_names(tags) -> None:
    with pytest.raises(ValueError, match="tag"):
        TagFormat(tags=tags)
