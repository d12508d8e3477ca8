"""One request to an OpenAI-compatible chat endpoint, over the standard library, with an end in time.

Waits for: the endpoint to take the connection, to begin its reply and to finish it; unblocked by bytes or by the
deadline. Follows no redirect, so the key goes nowhere else; uses no proxy.
"""

import email.utils
import http.client
import json
import math
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_MOST_BYTES = 4 << 20
_WORTH_RETRYING = frozenset([408, 409, 425, 429, 500, 502, 503, 504, 529])


class ChatFault(Exception):
    """No reply. `again_after_s` says when to try again: in so many seconds, 0 for soon, inf for never."""

    def __init__(self, message: str, again_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.again_after_s = again_after_s


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What came back."""

    content: object
    """Content of the message; text, unless the endpoint errs."""
    prompt_tokens: int
    """As the endpoint counts them; 0 when it does not say."""
    completion_tokens: int
    """Likewise."""
    finished: bool
    """False when it was cut off at a limit."""


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """Where to ask."""

    base_url: str
    """As in `http://127.0.0.1:8000/v1`."""
    key: str = ""
    """Sent as a bearer token when not empty; appears in no message of ours."""

    def ask(self, body: dict[str, Any], timeout_s: float) -> ChatReply:
        """Post one request. Raises `ChatFault`."""
        try:
            status, headers, raw = self._post(json.dumps(body).encode(), time.monotonic() + timeout_s)
        except TimeoutError as error:
            raise ChatFault(f"{self.base_url} did not reply within {timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise ChatFault(
                f"{self.base_url} cannot be reached: {self._clean(str(error) or type(error).__name__)}"
            ) from error
        if status != 200:
            said = self._clean(raw[:300].decode(errors="replace"))
            again = _retry_after(headers.get("Retry-After")) if status in _WORTH_RETRYING else math.inf
            raise ChatFault(f"{self.base_url} replied {status}: {said}", again)
        return _reply(raw)

    def _post(self, body: bytes, deadline: float) -> tuple[int, http.client.HTTPMessage, bytes]:
        url = urlsplit(self.base_url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=max(deadline - time.monotonic(), 0.001))
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            connection.request("POST", f"{url.path.rstrip('/')}/chat/completions", body, headers)
            response = connection.getresponse()
            raw = bytearray()
            while chunk := response.read1(1 << 16):
                raw += chunk
                if len(raw) > _MOST_BYTES:
                    raise http.client.HTTPException(f"the reply is longer than {_MOST_BYTES} bytes")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if connection.sock is not None:  # None: the end of the reply is the end of the connection
                    connection.sock.settimeout(left)
            return response.status, response.headers, bytes(raw)
        finally:
            connection.close()

    def _clean(self, words: str) -> str:
        """Without the key: endpoints quote it in complaints about it."""
        return words.replace(self.key, "***") if self.key else words


def _retry_after(header: str | None) -> float:
    """Seconds; the header holds seconds or a date (RFC 9110, 10.2.3)."""
    if not header:
        return 0.0
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def _reply(raw: bytes) -> ChatReply:
    try:
        payload = json.loads(raw)
        choice = payload["choices"][0]
        usage = payload.get("usage") or {}
        return ChatReply(
            choice["message"]["content"],
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            choice.get("finish_reason") != "length",
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ChatFault(f"the reply is no chat completion: {type(error).__name__}: {error}") from error
