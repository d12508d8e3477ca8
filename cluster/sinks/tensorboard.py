"""TensorBoard files in `tensorboard/` of the run directory: `tensorboard --logdir runs`."""

import re

from tensorboardX import SummaryWriter

from cluster.sinks.row import Row, SinkPlace

_ILLEGAL = re.compile(r"[^-/\w.]")  # in a tag


class TensorBoard:
    """One event file per start of the run."""

    def __init__(self, place: SinkPlace) -> None:
        self._writer = SummaryWriter(str(place.run_dir / "tensorboard"))

    def put(self, row: Row) -> None:
        """A scalar per number, over versions."""
        for name, value in row.numbers.items():
            self._writer.add_scalar(_ILLEGAL.sub("_", name.replace("@", "_at_")), value, row.version, row.time)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


make = TensorBoard
