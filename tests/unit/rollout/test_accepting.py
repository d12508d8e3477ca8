import errno
import socket
import threading

import pytest

from rollout.transports.accepting import Listener


class ShortOfFiles:
    """A listening socket whose first accepts fail, as in a process that has too many files open."""

    def __init__(self, times: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.times = times

    def accept(self):
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._server.accept()

    def __getattr__(self, name):
        return getattr(self._server, name)


def test_a_failure_to_accept_does_not_end_a_listener_and_closing_does(caplog):
    listener, accepted, all_there = Listener(ShortOfFiles(times=2)), [], threading.Event()

    def accept() -> None:
        for connection, where in listener.connections():
            accepted.append(where)
            connection.close()
            all_there.set()

    thread = threading.Thread(target=accept)
    thread.start()
    with socket.create_connection(("127.0.0.1", listener.port), 5) as connection:
        assert all_there.wait(5)
        assert accepted == ["{}:{}".format(*connection.getsockname())]
    listener.close()
    listener.close()
    thread.join(5)
    assert not thread.is_alive()
    assert caplog.text.count("Too many open files") == 2
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", listener.port), 5)
