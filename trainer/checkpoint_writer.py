"""Writes sharded checkpoints while training goes on: copied at the call, written by a thread, then renamed into place.

A checkpoint is whole or absent, whatever happens meanwhile, and what failed on one rank fails on all.
"""

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, FileSystemWriter
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from trainer.checkpoints import sharded_like, state_of
from trainer.directories import NotWritten, clear_draft, draft_of, put_in_place
from trainer.optim import ShardedAdamW

_LEAVE_BYTES = 256 << 20
"""Or a twentieth of a small disk: what a checkpoint leaves of it to others."""


class CheckpointWriter:
    """One rank's end of saving; every method is called on all ranks together."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: how much longer than the first rank the last one may write."""
        # Of its own: on a shared group the thread's collectives would come between those of training.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._mesh = DeviceMesh.from_group(self._group, "cpu")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, directory: Path, tensors: Mapping[str, DTensor], optimizer: ShardedAdamW | None) -> None:
        """Begin to write a checkpoint of the state as it is now (see `state_of`); returns when that is copied.

        The copy of this rank's shards lies in host memory until it is written.
        """
        staged = {name: self._copy(tensor) for name, tensor in state_of(tensors, optimizer)}
        self._writing = self._thread.submit(self._write, directory, staged)

    def saved(self, timeout_s: float) -> bool:
        """Whether what was last saved is whole and durable under its name; waits for that at most `timeout_s`.

        Raises:
            NotWritten: The disk refused it. Nothing of it is left, and the next save may do better.
        """
        if self._writing is None:
            return True
        if not wait([self._writing], timeout_s).done:
            return False
        writing, self._writing = self._writing, None
        writing.result()
        return True

    def close(self) -> None:
        """Let what is being written end, well or not."""
        self._thread.shutdown()

    def _copy(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor.to("cpu", copy=True)
        return sharded_like(tensor, tensor.to_local().detach().to("cpu", copy=True), self._mesh)

    def _write(self, directory: Path, state: dict[str, Tensor]) -> None:
        self._require_room(directory, state)
        try:
            dcp.save(state, storage_writer=_AtomicWriter(directory), process_group=self._group)
        except CheckpointException as error:  # all ranks have it, and none is left in a collective
            causes = [cause for cause, _ in error.failures.values()]
            if dist.get_rank() == 0:
                clear_draft(directory)
            if mistake := next((cause for cause in causes if not isinstance(cause, OSError)), None):
                raise mistake from None
            raise _not_written(directory, str(causes[0]), _whole_bytes(state)) from None

    def _require_room(self, directory: Path, state: dict[str, Tensor]) -> None:
        """Begin no checkpoint that would leave no room on its disk: others write there, and the run needs its journal.

        Raises `NotWritten`, on all ranks alike.
        """
        nbytes = _whole_bytes(state)
        if dist.get_rank() == 0:
            clear_draft(directory)
        dist.barrier(self._group)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            disk = shutil.disk_usage(directory.parent)
            enough, cause = disk.free - nbytes >= min(_LEAVE_BYTES, disk.total // 20), "it would leave no room"
        except OSError as error:
            enough, cause = False, str(error)
        refused = torch.tensor(not enough, dtype=torch.int32)
        dist.all_reduce(refused, dist.ReduceOp.MAX, self._group)  # what one rank sees, another may not
        if refused:
            raise _not_written(directory, cause, nbytes)


def _whole_bytes(state: Mapping[str, Tensor]) -> int:
    """Of all ranks together: sharded tensors tell their whole size."""
    return sum(tensor.numel() * tensor.itemsize for tensor in state.values())


def _not_written(directory: Path, cause: str, nbytes: int) -> NotWritten:
    free = shutil.disk_usage(next(folder for folder in directory.parents if folder.exists())).free
    return NotWritten(
        f"checkpoint {directory} could not be written ({cause}): it takes {nbytes:,} bytes and {free:,} are free "
        "there; make room, or lower trainer.keep_checkpoints"
    )


class _AtomicWriter(FileSystemWriter):
    """Writes a draft beside `final`, which takes its place as the last act of the save, on rank 0."""

    def __init__(self, final: Path) -> None:
        super().__init__(draft_of(final), per_thread_copy_ahead=0)  # all is in host memory: no CUDA streams here
        self._final = final

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        if is_coordinator:
            clear_draft(self._final)

    def write_data(self, *args: Any) -> Any:
        try:
            return super().write_data(*args)
        except RuntimeError as error:
            # torch.save closes its archive over a failed write, and that fails too: the disk's own error is behind.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    def finish(self, *args: Any, **kwargs: Any) -> None:
        super().finish(*args, **kwargs)
        put_in_place(self._final)
