"""Encodes problems as prompts, and refuses what a tokenizer cannot represent. Takes it as an object; loads none."""

import unicodedata
from collections.abc import Sequence
from typing import Any, Protocol

from rollout.data_errors import Complaints, shown
from rollout.problems import RawProblem
from rollout.records import Prompt


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...  # noqa: D102
    def decode(self, token_ids: list[int]) -> str: ...  # noqa: D102
    def apply_chat_template(  # noqa: D102
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str: ...


def encode_prompts(
    problems: Sequence[RawProblem], tokenizer: Tokenizer, instruction: str, context_length: int, complaints: Complaints
) -> list[Prompt]:
    """Prompts as the engine takes them: the chat, or instruction, blank line, question; in the tokenizer's chat
    template if any. In a chat the instruction comes before the user's last words.

    A prompt leaves at least one token of `context_length` for the answer. Problems that are too long, or that the
    tokenizer cannot represent, go to `complaints`.
    """
    prompts: list[Prompt] = []
    for problem in problems:
        chat = _chat(problem, instruction)
        content = "\n\n".join(text for _, text in chat)
        where = f"{problem.source} (id {shown(problem.id)})"
        try:
            token_ids = _encode(tokenizer, chat)
            came_back = _written(tokenizer.decode(token_ids))
            kept = all(_written(text) in came_back for _, text in chat)
        except Exception as error:  # a template is a program of the model's author, and raises what it likes
            what = "the chat template" if tokenizer.chat_template else "the tokenizer"
            complaints.add(
                f"{where}: {what} refuses {shown(content)}: {type(error).__name__}: {shown(str(error))}; "
                f"take out what it does not know, or use another model"
            )
            continue
        if not kept:
            complaints.add(
                f"{where}: {shown(content)} does not survive encoding, it comes back as "
                f"{shown(tokenizer.decode(token_ids))}; its chat template or tokenizer drops text: use another model"
            )
        elif len(token_ids) > context_length - 1:
            complaints.add(
                f"{where}: the prompt has {len(token_ids)} tokens and rollout.context_length={context_length} leaves "
                f"room for {context_length - 1}: {shown(content)}; raise rollout.context_length or drop the row"
            )
        else:
            prompts.append(_prompt(problem, token_ids))
    return prompts


def _prompt(problem: RawProblem, token_ids: list[int]) -> Prompt:
    return Prompt(
        id=problem.id,
        text=problem.question,
        token_ids=tuple(token_ids),
        reference=problem.answer,
        source=problem.source,
        tag=problem.tag,
        verifier=problem.verifier,
        extras=problem.extras,
    )


def _chat(problem: RawProblem, instruction: str) -> list[tuple[str, str]]:
    """(role, content) of what the model is told."""
    *before, (role, last) = problem.messages or (("user", problem.question),)
    return [*before, (role, f"{instruction}\n\n{last}" if instruction else last)]


def _encode(tokenizer: Tokenizer, chat: Sequence[tuple[str, str]]) -> list[int]:
    if not tokenizer.chat_template:
        texts = [content for _, content in chat if content.strip()]
        return tokenizer.encode("\n\n".join(texts), add_special_tokens=True)
    messages = [{"role": role, "content": content} for role, content in chat]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)  # the template has put them in


def comparable(question: str) -> str:
    """Equal for questions that ask the same in the same words."""
    return _written(question).casefold()


def _written(text: str) -> str:
    """Text without what tokenizers may change for good reasons: white space and the composition of characters."""
    return "".join(unicodedata.normalize("NFKC", text).split())
