"""The row formats of the journal: a finished group as a record batch, one row per sample; a worker's report on an
unfinished one, one row per piece; and back.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa

from rollout.records import GroupKey, GroupProgress, Piece, Prompt, Rollout, RolloutGroup, Segment
from verifiers.records import Verdict

SCHEMA = pa.schema(
    [
        ("purpose", pa.string()),
        ("epoch", pa.int64()),
        ("prompt_id", pa.string()),
        ("sample_index", pa.int32()),
        ("iteration", pa.int64()),
        ("step", pa.int64()),  # optimizer steps done in the phase when the group came in
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("versions", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),
        ("status", pa.string()),
        ("reward", pa.float64()),  # null when unscored
        ("verdict_status", pa.string()),
        ("parts", pa.map_(pa.string(), pa.float64())),
        ("verifier", pa.string()),
        ("verifier_version", pa.string()),
        ("feedback", pa.string()),
        ("answer", pa.string()),
        ("reason", pa.string()),  # JSON of what else the verdict says, less what it leaves open
        ("finish_reason", pa.string()),
        ("oldest_version", pa.int32()),
        ("newest_version", pa.int32()),
    ]
)

PIECES_SCHEMA = pa.schema(
    [
        ("purpose", pa.string()),
        ("epoch", pa.int64()),
        ("prompt_id", pa.string()),
        ("attempt", pa.int32()),
        ("sample_index", pa.int32()),
        ("call", pa.string()),
        ("offset", pa.int32()),  # tokens of the call that were known before
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("versions", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),  # null while the call goes on
        ("reward", pa.float64()),
        ("verdict_status", pa.string()),  # null while there is no verdict, like the rest of it
        ("parts", pa.map_(pa.string(), pa.float64())),
        ("verifier", pa.string()),
        ("verifier_version", pa.string()),
        ("feedback", pa.string()),
        ("answer", pa.string()),
        ("reason", pa.string()),
    ]
)

_REASON = ("expected", "rule", "milliseconds", "steps", "isolation", "facts")
_ARRAYS = ("prompt_ids", "token_ids", "logprobs", "versions", "loss_mask")


def to_batch(group: RolloutGroup, iteration: int, step: int) -> pa.RecordBatch:
    """One row per sample, whatever its verdict."""
    rollouts, size = group.rollouts, len(group.rollouts)
    versions = [r.response.versions for r in rollouts]
    columns = {
        "purpose": [group.key.purpose] * size,
        "epoch": [group.key.epoch] * size,
        "prompt_id": [group.key.prompt_id] * size,
        "sample_index": [r.sample_index for r in rollouts],
        "iteration": [iteration] * size,
        "step": [step] * size,
        "prompt_ids": _lists([r.prompt_ids for r in rollouts], pa.int32()),
        "token_ids": _lists([r.response.token_ids for r in rollouts], pa.int32()),
        "logprobs": _lists([r.response.logprobs for r in rollouts], pa.float32()),
        "versions": _lists(versions, pa.int32()),
        "loss_mask": _lists([r.loss_mask for r in rollouts], pa.bool_()),
        "status": [r.status for r in rollouts],
        "reward": [r.verdict.reward for r in rollouts],
        "verdict_status": [r.verdict.status for r in rollouts],
        "parts": [list(r.verdict.parts.items()) for r in rollouts],
        "verifier": [r.verdict.verifier for r in rollouts],
        "verifier_version": [r.verdict.version for r in rollouts],
        "feedback": [r.verdict.feedback for r in rollouts],
        "answer": [r.verdict.answer for r in rollouts],
        "reason": [_reason(r.verdict) for r in rollouts],
        "finish_reason": [r.response.finish_reason for r in rollouts],
        "oldest_version": [int(v.min()) if len(v) else -1 for v in versions],
        "newest_version": [int(v.max()) if len(v) else -1 for v in versions],
    }
    return _batch(columns, SCHEMA)


def from_batch(batch: pa.RecordBatch, prompt: Prompt) -> RolloutGroup:
    """The group that `to_batch` wrote."""
    rollouts = []
    for i, row in enumerate(_rows(batch)):
        rollouts.append(
            Rollout(
                prompt_id=row["prompt_id"],
                sample_index=row["sample_index"],
                prompt_ids=_array(batch, "prompt_ids", i, np.int32),
                response=_segment(batch, i, row),
                loss_mask=_array(batch, "loss_mask", i, np.bool_),
                verdict=_verdict(row),
                status=row["status"],
            )
        )
        key = GroupKey(row["purpose"], row["epoch"], row["prompt_id"])
    return RolloutGroup(key, prompt, tuple(rollouts))


def pieces_to_batch(progress: GroupProgress) -> pa.RecordBatch:
    """One row per piece of a report, which has at least one."""
    pieces, size = progress.pieces, len(progress.pieces)
    verdicts = [piece.verdict for piece in pieces]
    columns = {
        "purpose": [progress.key.purpose] * size,
        "epoch": [progress.key.epoch] * size,
        "prompt_id": [progress.key.prompt_id] * size,
        "attempt": [progress.attempt] * size,
        "sample_index": [piece.sample_index for piece in pieces],
        "call": [piece.call for piece in pieces],
        "offset": [piece.offset for piece in pieces],
        "token_ids": _lists([piece.segment.token_ids for piece in pieces], pa.int32()),
        "logprobs": _lists([piece.segment.logprobs for piece in pieces], pa.float32()),
        "versions": _lists([piece.segment.versions for piece in pieces], pa.int32()),
        "finish_reason": [piece.segment.finish_reason for piece in pieces],
        "reward": [verdict and verdict.reward for verdict in verdicts],
        "verdict_status": [verdict and verdict.status for verdict in verdicts],
        "parts": [verdict and list(verdict.parts.items()) for verdict in verdicts],
        "verifier": [verdict and verdict.verifier for verdict in verdicts],
        "verifier_version": [verdict and verdict.version for verdict in verdicts],
        "feedback": [verdict and verdict.feedback for verdict in verdicts],
        "answer": [verdict and verdict.answer for verdict in verdicts],
        "reason": [verdict and _reason(verdict) for verdict in verdicts],
    }
    return _batch(columns, PIECES_SCHEMA)


def pieces_from_batch(batch: pa.RecordBatch) -> tuple[Piece, ...]:
    """The pieces that `pieces_to_batch` wrote."""
    return tuple(
        Piece(
            row["sample_index"],
            row["call"],
            row["offset"],
            _segment(batch, i, row),
            _verdict(row) if row["verdict_status"] else None,
        )
        for i, row in enumerate(_rows(batch))
    )


def _batch(columns: dict[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, schema.field(name).type)
        for name, column in columns.items()
    ]
    return pa.record_batch(arrays, schema=schema)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Everything but the arrays."""
    return batch.select([name for name in batch.schema.names if name not in _ARRAYS]).to_pylist()


def _segment(batch: pa.RecordBatch, i: int, row: dict[str, Any]) -> Segment:
    return Segment(
        _array(batch, "token_ids", i, np.int32),
        _array(batch, "logprobs", i, np.float32),
        _array(batch, "versions", i, np.int32),
        row["finish_reason"],
    )


def _reason(verdict: Verdict) -> str:
    said = {name: getattr(verdict, name) for name in _REASON}
    return json.dumps({name: value for name, value in said.items() if value})


def _verdict(row: dict[str, Any]) -> Verdict:
    reason = json.loads(row["reason"])
    reason["steps"] = tuple(reason.get("steps", ()))
    return Verdict(
        row["reward"],
        row["verdict_status"],
        row["verifier"],
        row["verifier_version"],
        dict(row["parts"]),
        row["feedback"],
        row["answer"],
        **reason,
    )


def _lists(arrays: list, type: pa.DataType) -> pa.ListArray:
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(a) for a in arrays], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays), type))


def _array(batch: pa.RecordBatch, name: str, row: int, dtype: type) -> np.ndarray:
    values = batch.column(name)[row].values
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=dtype).copy()  # own it: the source may be a map
