from dataclasses import replace

import pytest

from rollout.data_errors import Complaints, DataError
from rollout.problems import RawProblem
from rollout.prompts import Tokenizer, encode_prompts
from rollout.records import Prompt


class Characters:
    """A tokenizer with one token per character; with a template when asked for."""

    def __init__(self, template: str | None = None, forget: str = "", unknown: str = "") -> None:
        self.chat_template = template
        self._forget = forget
        self._unknown = unknown

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if self._unknown and self._unknown in text:
            raise KeyError(self._unknown)
        return [1] * add_special_tokens + [ord(c) for c in text if c not in self._forget]

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert self.chat_template is not None
        assert not tokenize
        assert add_generation_prompt
        return "".join(self.chat_template.format(**message) for message in conversation)


def encode(problem: RawProblem, tokenizer: Tokenizer, instruction: str, context_length: int) -> list[Prompt]:
    complaints = Complaints()
    prompts = encode_prompts([problem], tokenizer, instruction, context_length, complaints)
    complaints.settle()
    return prompts


PROBLEM = RawProblem("7", "1+1?", "2", "a.jsonl:1", "sums")


def test_without_a_template_the_prompt_is_instruction_and_question() -> None:
    (prompt,) = encode(PROBLEM, Characters(), "Be brief.", context_length=64)
    assert prompt.token_ids == (1, *map(ord, "Be brief.\n\n1+1?"))
    assert (prompt.id, prompt.text, prompt.reference, prompt.source, prompt.tag) == (
        "7",
        "1+1?",
        "2",
        "a.jsonl:1",
        "sums",
    )
    (bare,) = encode(PROBLEM, Characters(), "", context_length=64)
    assert bare.token_ids == (1, *map(ord, "1+1?"))


def test_with_a_template_special_tokens_come_from_it_alone() -> None:
    (prompt,) = encode(PROBLEM, Characters("<{role}>{content}<assistant>"), "", context_length=64)
    assert prompt.token_ids == tuple(map(ord, "<user>1+1?<assistant>"))


def test_a_chat_goes_through_the_template_as_it_is_with_the_instruction_before_the_last_words() -> None:
    chat = (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "1+1?"))
    problem = replace(PROBLEM, question="Be kind.\n\nHi\n\nHello\n\n1+1?", messages=chat)
    (prompt,) = encode(problem, Characters("<{role}>{content}"), "Be brief.", context_length=99)
    said = "<system>Be kind.<user>Hi<assistant>Hello<user>Be brief.\n\n1+1?"
    assert prompt.token_ids == tuple(map(ord, said))
    assert prompt.text == problem.question
    (bare,) = encode(problem, Characters(), "", context_length=99)
    assert bare.token_ids == (1, *map(ord, problem.question))
    with pytest.raises(DataError, match="does not survive encoding"):
        encode(problem, Characters("<{role}>"), "", context_length=99)


def test_an_empty_system_message_reaches_the_template_and_leaves_no_gap_without_one() -> None:
    problem = replace(PROBLEM, messages=(("system", ""), ("user", "1+1?")))
    (prompt,) = encode(problem, Characters("<{role}>{content}"), "", context_length=99)
    assert prompt.token_ids == tuple(map(ord, "<system><user>1+1?"))
    (bare,) = encode(problem, Characters(), "", context_length=99)
    assert bare.token_ids == (1, *map(ord, "1+1?"))


def test_what_belongs_to_the_verifier_goes_with_the_prompt() -> None:
    problem = replace(PROBLEM, verifier="exact", extras='{"level": 3}')
    (prompt,) = encode(problem, Characters(), "", context_length=64)
    assert (prompt.verifier, prompt.extras) == ("exact", '{"level": 3}')


def test_problems_that_cannot_be_encoded_may_be_skipped() -> None:
    complaints = Complaints(skip=True)
    problems = [replace(PROBLEM, id=str(i), question="x" * (10 * i + 1)) for i in range(9)]
    prompts = encode_prompts(problems, Characters(), "", 32, complaints)
    assert [prompt.id for prompt in prompts] == ["0", "1", "2"]
    assert len(complaints.settle()) == 6


def test_a_prompt_leaves_room_for_one_token() -> None:
    assert len(encode(PROBLEM, Characters(), "", context_length=6)) == 1
    with pytest.raises(DataError, match=r"a.jsonl:1 \(id '7'\): the prompt has 5 tokens and .*=5 leaves room for 4"):
        encode(PROBLEM, Characters(), "", context_length=5)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (Characters("<{role}>"), "does not survive encoding, it comes back as '<user>'"),
        (Characters(forget="?"), "does not survive encoding"),
        (Characters("{system}"), "the chat template refuses '1.1.': KeyError: .*system"),
        (Characters(unknown="+"), "the tokenizer refuses '1.1.': KeyError"),
    ],
)
def test_what_a_tokenizer_cannot_represent_is_refused(tokenizer: Characters, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode(PROBLEM, tokenizer, "", context_length=64)
