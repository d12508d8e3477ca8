"""Settings of Ray that it reads once, when it is imported; so this file must not import it.

Whoever reaches the ports of a Ray cluster can run code in it, unless it asks for a token; so ours always do.
"""

import os
import secrets
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

_ANSWER_S = 30.0
MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def prepare_local_cluster() -> None:
    """Switch token authentication on for clusters that this process starts; an own setting of the user wins.

    Raises:
        RuntimeError: When ray is imported already, which would ignore the setting.
    """
    if "ray" in sys.modules and os.environ.get(MODE) != "token":
        raise RuntimeError("prepare_local_cluster() must run before ray is imported; call it first")
    os.environ.setdefault(MODE, "token")
    if TOKEN_PATH not in os.environ:
        os.environ.setdefault(TOKEN, secrets.token_hex(32))


def use_token_if_there() -> None:
    """Show the user's token, if there is one, to clusters that this process calls; Ray's own commands do the same."""
    if TOKEN in os.environ or token_file(os.environ).exists():
        os.environ.setdefault(MODE, "token")


def shows_token() -> bool:
    """Whether this process shows a token to the clusters that it joins; Ray decides on that when it is asked to."""
    return os.environ.get(MODE) == "token"


def is_open(dashboard: str) -> bool:
    """Whether a cluster, by the URL of its dashboard, lets everybody run code; False where nothing answers."""
    try:
        with urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=_ANSWER_S) as answer:
            return bool(answer.status == 200)
    except OSError:  # also 401
        return False


def token_file(environ: Mapping[str, str]) -> Path:
    """Where Ray looks for the token."""
    return Path(environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token").expanduser()


def make_token(file: Path) -> bool:
    """Put a fresh token there, readable by nobody else, unless there is one; returns whether there was none.

    An old one that others could read becomes private too; Ray itself would write one that all may read.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        file.chmod(0o600)
        return False
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32))
    return True
