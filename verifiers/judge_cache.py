"""Votes of a judge on disk, by what was judged. Safe for any number of processes: files appear whole or not at all."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from verifiers.judge_prompt import Opinion


class JudgeCache:
    """One small JSON file per vote, in 256 folders. Nothing is ever removed: delete the folder to begin anew."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).expanduser()

    def get(self, content: Any) -> Opinion | None:
        """The vote on this content, or None. A file that cannot be read as a vote is none."""
        try:
            kept = json.loads(self._path(content).read_bytes())
            return Opinion({str(item): int(points) for item, points in kept["scores"].items()}, str(kept["reason"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def put(self, content: Any, opinion: Opinion) -> None:
        """Keep a vote. Raises OSError when the folder cannot be written."""
        path = self._path(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump({"scores": opinion.scores, "reason": opinion.reason}, file)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise

    def _path(self, content: Any) -> Path:
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest[2:]}.json"
