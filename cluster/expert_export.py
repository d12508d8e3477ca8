"""Expert sets for other trainers: Parquet with tokens and text, or chat messages as JSONL. Streams row by row.

The text is what the run's tokenizer gives, without special tokens. A chat message is what the user wrote, without the
chat template around it: the trainer that reads it puts its own there.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.settings import Refused
from rollout.datasets import write_batches
from rollout.experts import SCHEMA
from rollout.storage import whole_file

_ROWS = 1024  # in memory at a time
_TEXT_SCHEMA = pa.schema([*SCHEMA, ("prompt_text", pa.string()), ("response_text", pa.string())])
_MARK = "7301952846"  # stands for what a user wrote; digits are in every vocabulary


def export_parquet(experts: Path, out: Path, tokenizer: Any) -> None:
    """The columns of an expert set (`rollout.experts.SCHEMA`), and the texts as `prompt_text` and `response_text`."""

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in pq.ParquetFile(experts).iter_batches(_ROWS):
            texts = [
                [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch[name].to_pylist()]
                for name in ("prompt_ids", "response_ids")
            ]
            yield pa.record_batch([*batch.columns, *map(pa.array, texts)], schema=_TEXT_SCHEMA)

    write_batches(out, _TEXT_SCHEMA, batches())


def export_chat(experts: Path, out: Path, tokenizer: Any) -> None:
    """A line per answer: `messages` (user, assistant), `prompt_id`, `success_rate`, `step`, `version`.

    Raises:
        Refused: When a prompt is not one turn of a user in the tokenizer's chat template.
    """
    asked = _user_text(tokenizer)
    with whole_file(out) as file:
        for batch in pq.ParquetFile(experts).iter_batches(_ROWS):
            for row in batch.to_pylist():
                file.write(json.dumps(_chat(row, asked, tokenizer), ensure_ascii=False).encode() + b"\n")


def _chat(row: Mapping[str, Any], asked: Callable[[list[int]], str], tokenizer: Any) -> dict[str, Any]:
    answer = tokenizer.decode(row["response_ids"], skip_special_tokens=True)
    messages = [
        {"role": "user", "content": asked(row["prompt_ids"])},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages} | {name: row[name] for name in ("prompt_id", "success_rate", "step", "version")}


def _user_text(tokenizer: Any) -> Callable[[list[int]], str]:
    """Gives what the user wrote from the tokens of a prompt: the inverse of `rollout.prompts.encode_prompts`."""
    if not tokenizer.chat_template:
        return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": _MARK}], tokenize=False, add_generation_prompt=True
    )
    # There and back, as the prompts were: a decoder may change white space.
    before, _, after = tokenizer.decode(tokenizer.encode(rendered, add_special_tokens=False)).partition(_MARK)

    def asked(ids: list[int]) -> str:
        text = tokenizer.decode(ids)
        if len(text) < len(before) + len(after) or not (text.startswith(before) and text.endswith(after)):
            raise Refused(
                [
                    f"the prompt {text[:60]!r}… is not one turn of a user in the model's chat template, so it has no "
                    "chat messages; export to a .parquet file"
                ]
            )
        return text[len(before) : len(text) - len(after)]

    return asked
