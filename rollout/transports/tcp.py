"""Weights between hosts without GPUs: each learner rank serves its own rows, each engine's owner fetches them.

The engine's side asks, so a version can be fetched again, or by a newcomer, while the learner trains on: the rank
serves the copy it staged. A connection is one version: the server sends a challenge, the client answers with its proof
that it knows the token and says which version it wants, the server sends frames (offset, length, bytes) and an empty
frame last. Every read and write has a deadline. The bytes are checked where they are used, by the checksums that travel
with them.
"""

import hmac
import logging
import secrets
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rollout.engine import WeightsMissing
from rollout.transports.accepting import Listener
from rollout.weights import RowSource

logger = logging.getLogger(__name__)

IO_TIMEOUT_S = 20.0
"""How long either side waits for the other to take or give the next bytes."""

Bytes = NDArray[np.uint8]
Range = tuple[int, int]
"""(offset, bytes)."""

_FRAME = struct.Struct(">QQ")  # offset, bytes
_ASK = struct.Struct(">32sQ")  # proof, version
_REFUSED = 2**64 - 1  # instead of an offset: what follows is a sentence
_CHALLENGE_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Offer:
    version: int
    file: Bytes
    ranges: Sequence[Range]


class RowServer:
    """Serves what one learner rank staged, from threads of its own.

    Args:
        host: Address to listen on, which the engines' hosts can reach.
        timeout_s: How long it waits for a client to take the next bytes.
    """

    def __init__(self, host: str, timeout_s: float = IO_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._token = secrets.token_hex(32)
        self._offers: dict[int, _Offer] = {}
        self._listener = Listener(socket.create_server((host, 0)))
        self.source = RowSource(host, self._listener.port, self._token)
        threading.Thread(target=self._accept, name="row-server", daemon=True).start()

    def offer(self, side: int, version: int, file: Bytes, ranges: Sequence[Range]) -> None:
        """From now on serve these ranges of `file` as `version`, instead of what lay on that side."""
        self._offers[side] = _Offer(version, file, ranges)

    def withdraw(self, side: int) -> None:
        """Serve nothing of that side any more: it is about to be overwritten."""
        self._offers.pop(side, None)

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        self._listener.close()

    def _accept(self) -> None:
        for connection, address in self._listener.connections():
            threading.Thread(target=self._serve, args=(connection, address), name="rows", daemon=True).start()

    def _serve(self, connection: socket.socket, address: str) -> None:
        connection.settimeout(self._timeout_s)
        with connection:
            try:
                challenge = secrets.token_bytes(_CHALLENGE_BYTES)
                connection.sendall(challenge)
                proof, version = _ASK.unpack(_read(connection, _ASK.size))
                if not hmac.compare_digest(proof, _proof(self._token, challenge)):
                    _refuse(connection, "the token is wrong; take it from the layout of this run's learner")
                    logger.warning("%s asked for weights with a wrong token", address)
                    return
                offer = next((offer for offer in self._offers.values() if offer.version == version), None)
                if offer is None:
                    held = sorted(offer.version for offer in self._offers.values())
                    _refuse(connection, f"version {version} is not staged here, only {held}")
                    return
                for offset, nbytes in offer.ranges:
                    if nbytes:
                        connection.sendall(_FRAME.pack(offset, nbytes))
                        connection.sendall(offer.file[offset : offset + nbytes].data)
                connection.sendall(_FRAME.pack(0, 0))
            except (OSError, EOFError) as error:
                logger.warning("%s did not take all of its weights: %s", address, error)


def fetch(source: RowSource, version: int, file: Bytes, timeout_s: float = IO_TIMEOUT_S) -> int:
    """Fetch one rank's rows of a version into `file`; returns the number of bytes.

    Raises:
        WeightsMissing: The rank cannot be reached, refuses, breaks off, or pauses for longer than `timeout_s`.
    """
    where = f"the rows of version {version} at {source.host}:{source.port}"
    try:
        with socket.create_connection((source.host, source.port), timeout_s) as connection:
            challenge = _read(connection, _CHALLENGE_BYTES)
            connection.sendall(_ASK.pack(_proof(source.token, challenge), version))
            return _receive(connection, file, where)
    except TimeoutError:
        raise WeightsMissing(f"{where}: nothing came for {timeout_s:g} s") from None
    except (OSError, EOFError) as error:
        raise WeightsMissing(f"{where}: {error}") from None


def _receive(connection: socket.socket, file: Bytes, where: str) -> int:
    received = 0
    while True:
        offset, nbytes = _FRAME.unpack(_read(connection, _FRAME.size))
        if offset == _REFUSED:
            raise WeightsMissing(f"{where} were refused: {_read(connection, min(nbytes, 1000)).decode()}")
        if not nbytes:
            return received
        if offset + nbytes > len(file):
            raise WeightsMissing(f"{where}: bytes {offset} to {offset + nbytes} are outside of a file of {len(file)}")
        _read_into(connection, file[offset : offset + nbytes].data)
        received += nbytes


def _proof(token: str, challenge: bytes) -> bytes:
    return hmac.digest(token.encode(), challenge, "sha256")


def _refuse(connection: socket.socket, why: str) -> None:
    connection.sendall(_FRAME.pack(_REFUSED, len(why.encode())) + why.encode())


def _read(connection: socket.socket, nbytes: int) -> bytes:
    data = bytearray(nbytes)
    _read_into(connection, memoryview(data))
    return bytes(data)


def _read_into(connection: socket.socket, data: memoryview) -> None:
    while data:
        taken = connection.recv_into(data)
        if not taken:
            raise EOFError("the connection ended early")
        data = data[taken:]
