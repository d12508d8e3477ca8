"""Connections that come in, for as long as their listener is meant to be open."""

import logging
import socket
import threading
from collections.abc import Iterator

logger = logging.getLogger(__name__)

_PAUSE_S = 0.1  # what is short (open files, memory) is not there at once, and a queued connection comes again


class Listener:
    """A listening socket, which one failure to accept does not end.

    Args:
        server: The socket that listens.
    """

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._closed = threading.Event()
        self.port: int = server.getsockname()[1]

    def connections(self) -> Iterator[tuple[socket.socket, str]]:
        """(connection, where it comes from), until `close`."""
        while not self._closed.is_set():
            try:
                connection, (host, port) = self._server.accept()
            except OSError as error:  # e.g. EMFILE or ECONNABORTED
                if not self._closed.wait(_PAUSE_S):
                    logger.warning("a connection was not accepted: %s", error)
                continue
            yield connection, f"{host}:{port}"

    def close(self) -> None:
        """Listen no more. Safe to call twice."""
        self._closed.set()
        try:
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        except OSError:
            pass
        self._server.close()
