"""A line between a learner rank that pushes weights and an engine's owner: short messages, each wait with a deadline.

The bytes of the weights do not travel here; what the two ends agree on does. Messages are JSON objects, each after its
length. Whoever asks first proves that it knows the token of the layout; the token itself never travels.
"""

import hmac
import json
import secrets
import select
import socket
import struct
from typing import Any

from rollout.engine import WeightsMissing
from rollout.weights import RowSource

Message = dict[str, Any]

_LENGTH = struct.Struct(">Q")
_LONGEST = 64 << 20  # bytes; handles of some ten thousand tensors


class Line:
    """One end. Not for two threads at a time, except for `ended`."""

    def __init__(self, connection: socket.socket, where: str) -> None:
        self._connection = connection
        self._where = where
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # notices a host that is gone without a word

    @classmethod
    def to(cls, source: RowSource, timeout_s: float) -> "Line":
        """Call a learner rank and prove that we know its token.

        Raises:
            WeightsMissing: It cannot be reached, or does not answer in time.
        """
        where = f"the learner's sender at {source.host}:{source.port}"
        try:
            line = cls(socket.create_connection((source.host, source.port), timeout_s), where)
        except OSError as error:
            raise WeightsMissing(f"{where}: {error}") from None
        challenge = line.hear("its challenge", timeout_s)["challenge"]
        line.say(proof=_proof(source.token, challenge))
        return line

    def admit(self, token: str, timeout_s: float) -> None:
        """Let the caller prove that it knows the token.

        Raises:
            WeightsMissing: It does not.
        """
        challenge = secrets.token_hex(16)
        self.say(challenge=challenge)
        if not hmac.compare_digest(str(self.hear("a proof", timeout_s).get("proof")), _proof(token, challenge)):
            self.say(refused="the token is wrong; take it from the layout of this run's learner")
            raise WeightsMissing(f"{self._where} asked for weights with a wrong token")

    def say(self, **message: Any) -> None:
        """Send a message.

        Raises:
            WeightsMissing: The other end is gone.
        """
        data = json.dumps(message).encode()
        try:
            self._connection.sendall(_LENGTH.pack(len(data)) + data)
        except OSError as error:
            raise WeightsMissing(f"{self._where}: {error}") from None

    def hear(self, what: str, timeout_s: float | None) -> Message:
        """The next message; None waits as long as the other end lives.

        Raises:
            WeightsMissing: It does not come in time, the other end is gone, or it says that it refuses, and why.
        """
        try:
            self._connection.settimeout(timeout_s)
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
            if length > _LONGEST:
                raise EOFError(f"a message has at most {_LONGEST} bytes, got {length}")
            message: Message = json.loads(self._read(length))
        except TimeoutError:
            raise WeightsMissing(f"{self._where}: waited {timeout_s:g} s for {what}") from None
        except (OSError, EOFError, ValueError) as error:
            raise WeightsMissing(f"{self._where}: waited for {what}: {error}") from None
        if "refused" in message:
            raise WeightsMissing(f"{self._where} refused: {message['refused']}")
        return message

    def ended(self) -> bool:
        """Whether the other end hung up; to be asked while it has nothing to say."""
        poll = select.poll()  # `recv` would wait for as long as `hear` said last
        try:
            poll.register(self._connection, select.POLLIN)
            return bool(poll.poll(0)) and self._connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        """Hang up, also under a thread that waits in `hear`. Safe to call twice."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was first
        self._connection.close()

    def _read(self, nbytes: int) -> bytes:
        data = bytearray()
        while len(data) < nbytes:
            piece = self._connection.recv(min(nbytes - len(data), 1 << 20))
            if not piece:
                raise EOFError("the other end hung up")
            data += piece
        return bytes(data)


def _proof(token: str, challenge: str) -> str:
    return hmac.digest(token.encode(), challenge.encode(), "sha256").hex()
