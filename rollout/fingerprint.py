"""What the data of a run is, in one number: a run is resumed with the data that it was started with, or not at all."""

import hashlib
import json
from collections.abc import Iterable

from rollout.records import Prompt


def fingerprint(prompts: Iterable[Prompt]) -> str:
    """sha256 over ids, tokens and references, in order: all of a prompt that decides what is generated and scored."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.id, prompt.token_ids, prompt.text, prompt.reference]).encode())
    return digest.hexdigest()
