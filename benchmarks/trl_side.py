"""One run of TRL's GRPOTrainer on this machine's CPU: reads a job, writes what every step took. For `vs_trl.py`.

    .venv-trl/bin/python -m benchmarks.trl_side JOB.json RESULT.json

Runs in an environment of TRL's own; of RLoop it imports only the verifier, which needs nothing but Python.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from verifiers import catalogue
from verifiers.records import ScoreRequest


class Stopwatch:
    """Seconds by kind of work. Kinds may nest: the inner one's time is not the outer one's."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        self._lap()
        self._running.append(kind)
        yield
        self._lap()
        self._running.pop()

    def _lap(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


class TimedTrainer(GRPOTrainer):
    """The trainer as it is, with a stopwatch around its parts."""

    watch: Stopwatch

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with self.watch.measure("generation"):
            return super()._generate_single_turn(*args, **kwargs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self.watch.measure("scoring"):
            return super()._calculate_rewards(*args, **kwargs)

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        with self.watch.measure("batching, old log-probs"):
            return super()._generate_and_score_completions(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.watch.measure("forward, backward"):
            return super().training_step(*args, **kwargs)


class Recorder(TrainerCallback):
    """A row per optimizer step."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self.scored: list[tuple[float, int]] = []
        """(reward, tokens) of the answers of the step at hand."""
        self.steps: list[dict[str, Any]] = []
        self.began = self._last = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = self._last = time.time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        now = time.time()
        rewards, lengths = zip(*self.scored, strict=True)
        spent = dict(self._watch.seconds)
        spent["optimizer, everything else"] = now - self._last - sum(spent.values())
        step = {
            "ended": now,
            "samples": len(rewards),
            "reward": sum(rewards) / len(rewards),
            "length": sum(lengths) / len(lengths),
            "spent": spent,
        }
        self.steps.append(step)
        self._watch.seconds.clear()
        self.scored, self._last = [], now


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train as `vs_trl.trl_job` says; returns when that began (seconds since 1970) and what every step took."""
    torch.set_num_threads(job["threads"])
    watch = Stopwatch()
    recorder = Recorder(watch)
    verifier = catalogue.load(job["verifier"])

    def reward(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], reference: list[str], **_: Any
    ) -> list[float]:
        requests = map(ScoreRequest, prompts, completions, reference)
        rewards = [float(verifier.score(request).reward or 0.0) for request in requests]
        recorder.scored += zip(rewards, map(len, completion_ids), strict=True)
        return rewards

    trainer = TimedTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["model_dir"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(job["model_dir"]),
        reward_funcs=reward,
        train_dataset=Dataset.from_list(job["problems"]),
        args=GRPOConfig(
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **job["grpo"],
        ),
        callbacks=[recorder],
    )
    trainer.watch = watch
    trainer.train()
    return {"began": recorder.began, "steps": recorder.steps}


def main() -> None:
    job, result = map(Path, sys.argv[1:])
    result.write_text(json.dumps(run(json.loads(job.read_text()))))


if __name__ == "__main__":
    main()
