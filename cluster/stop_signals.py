"""Ctrl-C, `ray job stop` and a spot notice: the signals by which a run is asked to write a checkpoint and end."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

_STOPS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """An event that SIGINT and SIGTERM set. The second signal acts as usual."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def listen(self) -> None:
        """Begin to, or begin again: Ray takes SIGTERM for itself in a process that joins a cluster."""
        if not self.event.is_set():
            for number in _STOPS:
                self._loop.add_signal_handler(number, self._ask)

    def _ask(self) -> None:
        self.event.set()
        self.ignore()

    def ignore(self) -> None:
        """Leave the signals to whoever had them."""
        for number in _STOPS:
            self._loop.remove_signal_handler(number)


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Listens while the context lasts."""
    signals = StopSignals()
    signals.listen()
    try:
        yield signals
    finally:
        signals.ignore()
