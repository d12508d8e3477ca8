"""Rows of reasoning-gym tasks, as a source of problems or as a JSONL file.

python -m verifiers.reasoning_gym_rows leg_counting --size 1000 --seed 1 --config '{"max_animals": 5}' > train.jsonl
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from verifiers.exact_json import freeze, thaw
from verifiers.reasoning_gym_task import library, scorer


def rows(task: str, size: int, seed: int, config: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Generated problems of one task, the same for the same arguments and version of reasoning-gym.

    Args:
        task: Its name in reasoning-gym, e.g. `leg_counting`.
        size: How many.
        seed: Of the generator.
        config: Further fields of the task's own configuration.

    Yields:
        `question`, `reference` (the task's own answer, only shown; empty where it has none), `verifier`, and the
        columns `task` and `entry`, by which that verifier judges.

    Raises:
        ValueError: When reasoning-gym is not installed, or an entry would be scored otherwise after its way through a
            row than before it.
    """
    entries = library().create_dataset(task, size=size, seed=seed, **(config or {}))
    for index in range(size):
        entry = entries[index]
        kept = freeze(entry)
        answer = entry["answer"]
        if answer is not None and scorer(task)(answer, thaw(kept)) != scorer(task)(answer, entry):
            raise ValueError(
                f"{task} {index} (seed {seed}) is scored otherwise after it was a row; leave this task out"
            )
        yield {
            "question": entry["question"],
            "reference": answer or "",
            "verifier": "reasoning_gym",
            "task": task,
            "entry": kept,
        }


def main() -> None:
    """Write rows as JSONL to stdout."""
    parser = argparse.ArgumentParser(prog="python -m verifiers.reasoning_gym_rows", description=rows.__doc__)
    parser.add_argument("task")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--config", type=json.loads, default={})
    given = parser.parse_args()
    for row in rows(given.task, given.size, given.seed, given.config):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
