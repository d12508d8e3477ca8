"""Frames between the trusted side and a jailed process: four bytes of length, then JSON."""

import json
import os
import struct
from typing import Any

HEADER = struct.Struct(">I")
MAX_FRAME = 8 << 20
"""Bytes of the largest frame that is read; a larger answer is no answer."""
CHILD_FD = 3
"""Where a jailed process has its end."""


def pack(message: Any) -> bytes:
    """A frame. Raises ValueError when it is too large to be read.

    Text is written as it is: escapes would let a frame that was read grow too large to be passed on.
    """
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame holds at most {MAX_FRAME} bytes, got {len(body)}")
    return HEADER.pack(len(body)) + body


def send(message: Any) -> None:
    """Write a frame to the trusted side; called in a jailed process."""
    data = memoryview(pack(message))
    while data:
        data = data[os.write(CHILD_FD, data) :]


def receive() -> Any:
    """Read a frame from the trusted side; called in a jailed process. Raises EOFError when it hung up."""
    return json.loads(_read(*HEADER.unpack(_read(HEADER.size))))


def _read(size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = os.read(CHILD_FD, size - len(data))
        if not piece:
            raise EOFError("the trusted side hung up")
        data += piece
    return bytes(data)
