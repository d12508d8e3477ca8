"""Frames on a stream: four bytes of length, then JSON. For processes that block, and for an event loop."""

import asyncio
import json
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO

_HEADER = struct.Struct(">I")


def read(read_bytes: Callable[[int], bytes]) -> Any:
    """The next frame, or None at the end."""
    header = read_bytes(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    return json.loads(read_bytes(*_HEADER.unpack(header)))


def write(stream: BinaryIO, message: Any) -> None:
    """Write a frame."""
    stream.write(frame(message))
    stream.flush()


def frame(message: Any) -> bytes:
    """A message as it travels."""
    body = json.dumps(message).encode()
    return _HEADER.pack(len(body)) + body


class FrameStream(asyncio.Protocol):
    """Our end of a stream of frames. What has come is there at once: a wait costs a hundred times what a frame does."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._come: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        """Whether the other end is closed; frames that came before may still be taken."""

    async def get(self, timeout_s: float, wanted: "asyncio.Future[Any] | None" = None) -> Any:
        """The next frame.

        Raises:
            TimeoutError: None came in time, or `wanted` was done before one came; nothing is lost, one may ask again.
            EOFError: The stream ended.
        """
        while not self._come:
            if self.ended:
                raise EOFError
            self._waiter = asyncio.get_running_loop().create_future()
            waited_for = {self._waiter, wanted} if wanted else {self._waiter}
            before = asyncio.get_running_loop().time()
            await asyncio.wait(waited_for, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            timeout_s -= asyncio.get_running_loop().time() - before
            # What has come while the event loop was busy elsewhere is preferred to the deadline.
            if not self._waiter.done():
                raise TimeoutError
        return self._come.popleft()

    def data_received(self, data: bytes) -> None:
        """Take apart what came."""
        self._bytes += data
        begin = 0
        while len(self._bytes) >= begin + _HEADER.size:
            (size,) = _HEADER.unpack_from(self._bytes, begin)
            end = begin + _HEADER.size + size
            if len(self._bytes) < end:
                break
            self._come.append(json.loads(self._bytes[begin + _HEADER.size : end]))
            begin = end
        del self._bytes[:begin]
        if begin:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
