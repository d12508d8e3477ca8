"""Sinks follow `metrics.jsonl`, each in a thread of its own.

    consumes    lines of the file, from where the sink was last time
    produces    calls of the sink
    waits for   new lines; for the sink, in its own thread
    unblocked   by time, and by the end of the run

The file is the queue: a sink that fails or hangs keeps nobody waiting, and gets at the next resume what it missed.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cluster.sinks.row import Row, Sink

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
_CLOSE_S = 10.0


class Follower:
    """One sink and its thread, which begins at once."""

    def __init__(self, name: str, make: Callable[[], Sink], file: Path, mark: Path) -> None:
        """`mark`: where it is noted how far the sink has got."""
        self.name = name
        self.trouble = ""
        """Why the sink gets nothing more; empty while it does."""
        self._make, self._file, self._mark = make, file, mark
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> None:
        """The run is over: let it catch up, but not for longer than that."""
        self._over.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.trouble = f"it did not take the rest within {seconds:g} s"

    def _run(self) -> None:
        try:
            sink, last = self._make(), False
            while not last:
                last = self._over.wait(_LOOK_S)  # what came before the end is still read
                self._catch_up(sink)
            sink.close()
        except Exception as error:  # a sink is somebody else's code and somebody else's service
            self.trouble = f"{type(error).__name__}: {error}"
            logger.warning("sink %s gets nothing more", self.name, exc_info=True)

    def _catch_up(self, sink: Sink) -> None:
        if not self._file.exists():
            return
        newest, position = self._noted()
        with self._file.open("rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is being written
                row = Row.read(line.decode(), newest)
                sink.put(row)
                newest, position = max(newest, row.version), position + len(line)
        self._mark.parent.mkdir(exist_ok=True)
        self._mark.write_text(f"{newest} {position}")

    def _noted(self) -> tuple[int, int]:
        """Newest version, and place in the file."""
        if not self._mark.exists():
            return 0, 0
        newest, position = self._mark.read_text().split()
        return int(newest), int(position)


@contextlib.contextmanager
def following(sinks: Mapping[str, Callable[[], Sink]], run_dir: Path, close_s: float = _CLOSE_S) -> Iterator[list[str]]:
    """Let the sinks follow a run while the context lasts; each has `close_s` to catch up at its end.

    Yields:
        A list that holds, when the context is over, a sentence per sink that did not get everything.
    """
    file, troubles = run_dir / "metrics.jsonl", list[str]()
    followers = [Follower(name, make, file, run_dir / "sinks" / name.replace(":", "-")) for name, make in sinks.items()]
    try:
        yield troubles
    finally:
        for follower in followers:
            follower.close(close_s)
        troubles += [
            f"sink {one.name}: {one.trouble}; {file} has everything, and a resumed run sends the rest"
            for one in followers
            if one.trouble
        ]
