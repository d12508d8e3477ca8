"""Settings of a local Ray cluster that Ray reads once, when it is imported; so this file must not import it.

A token of its own, so that nobody else on the machine can run code in it: Ray serves its ports unauthenticated
otherwise.
"""

import os
import secrets
import sys


def prepare_local_cluster() -> None:
    """Switch token authentication on for clusters that this process starts; an own setting of the user wins.

    Raises:
        RuntimeError: When ray is imported already, which would ignore the setting.
    """
    if "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
        raise RuntimeError("prepare_local_cluster() must run before ray is imported; call it first")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
