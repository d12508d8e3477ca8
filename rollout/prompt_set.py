"""The problems of a run: by group, and as one number, so that a run is resumed with the data it was started with."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from rollout.records import GroupKey, Prompt


class PromptSet:
    """Training and held-out problems.

    Raises:
        ValueError: When an id occurs twice among the training or among the held-out problems.
    """

    def __init__(self, train: Sequence[Prompt], held_out: Sequence[Prompt]) -> None:
        self.train = _by_id(train, "training")
        self.held_out = _by_id(held_out, "held-out")

    def __getitem__(self, key: GroupKey) -> Prompt:
        """The problem of a group."""
        return (self.train if key.purpose == "train" else self.held_out)[key.prompt_id]

    def fingerprint(self) -> str:
        """sha256 over all of the problems, in order, that decides what is generated and how it is scored."""
        digest = hashlib.sha256()
        for prompts in (self.train, self.held_out):
            for p in prompts.values():
                fields = [p.id, p.token_ids, p.text, p.reference, p.verifier, p.extras]
                digest.update(json.dumps(fields).encode())
            digest.update(b"|")
        return digest.hexdigest()


def _by_id(prompts: Sequence[Prompt], kind: str) -> dict[str, Prompt]:
    by_id = {prompt.id: prompt for prompt in prompts}
    if len(by_id) < len(prompts):
        twice = Counter(prompt.id for prompt in prompts).most_common(1)[0][0]
        raise ValueError(f"each {kind} prompt needs an id of its own, got {twice!r} twice; rename or remove one")
    return by_id
