"""Which training prompt comes next: a seeded shuffle per source and pass, interleaved by weight, entered where the
ledger says.

Draw k (from 0) of a source with weight w is due at (k + 1/2) / w, and draws come in the order in which they are due:
Webster's way to share seats. So at any cut each of S sources has had its share of the N draws, N·w / Σw, to within
1/2 + S/2 draws, with no chance in it; and every source goes through all of its prompts before it begins again.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np

from rollout.ledger import Ledger
from rollout.records import GroupKey

Position = tuple[Fraction, int]
"""When a draw is due, and of which source; unique, and ordered like the draws."""
_HALF = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Share:
    """Prompts that are drawn as often as their weight says."""

    prompt_ids: tuple[str, ...]
    weight: float = 1.0
    """Draws from these, relative to draws from the others."""

    def __post_init__(self) -> None:
        if not self.prompt_ids or not 0 < self.weight < float("inf"):
            raise ValueError(
                f"a source has prompts and a finite weight above 0, got {len(self.prompt_ids)} prompts and weight "
                f"{self.weight:g}; leave it out, or mend it"
            )


class PromptOrder:
    """The order of all training groups of a run.

    A group's epoch is the pass over its source. Within a pass no prompt is skipped or repeated; one that becomes free
    again comes before all later ones.
    """

    def __init__(self, shares: Sequence[Share], seed: int, ledger: Ledger) -> None:
        """`shares`: no prompt is in two of them."""
        self._shares = shares
        self._weights = [Fraction(str(share.weight)) for share in shares]  # 0.1 is a tenth, as it was written
        self._homes = {prompt_id: s for s, share in enumerate(shares) for prompt_id in share.prompt_ids}
        self._seed = seed
        self._ledger = ledger
        self._orders: dict[tuple[int, int], list[str]] = {}
        self._places: dict[tuple[int, int], dict[str, int]] = {}
        self._drawn: list[int] = []  # the cursor: draws of each source
        self._freed: list[Position] = []  # heap of what is free before the cursor
        self.rewind()

    def rewind(self) -> None:
        """Derive the cursor from the ledger: behind the last group that was ever touched."""
        keys = [key for key in self._ledger.entries if key.purpose == "train" and key.prompt_id in self._homes]
        last = max(map(self.position, keys), default=(Fraction(0), 0))
        self._drawn = [self._due_until(last, source) for source in range(len(self._shares))]
        touched = (self._position(source, draw) for source, count in enumerate(self._drawn) for draw in range(count))
        self._freed = [at for at in touched if self._ledger.state(self._key(at)) == "free"]
        heapq.heapify(self._freed)

    def __len__(self) -> int:
        return len(self._homes)

    def next(self) -> GroupKey:
        """Take the next free group."""
        if self._freed:
            return self._key(heapq.heappop(self._freed))
        due = min(self._position(source, draw) for source, draw in enumerate(self._drawn))
        self._drawn[due[1]] += 1
        return self._key(due)

    def put_back(self, key: GroupKey) -> None:
        """The group is free again."""
        heapq.heappush(self._freed, self.position(key))

    def position(self, key: GroupKey) -> Position:
        """Where a training group stands in the order."""
        source = self._homes[key.prompt_id]
        self._order(source, key.epoch)
        place = self._places[source, key.epoch][key.prompt_id]
        return self._position(source, key.epoch * len(self._shares[source].prompt_ids) + place)

    def _position(self, source: int, draw: int) -> Position:
        return (draw + _HALF) / self._weights[source], source

    def _due_until(self, last: Position, source: int) -> int:
        """How many draws of a source are due until `last`, this one included."""
        time, of = last
        draw = time * self._weights[source] - _HALF  # the last one is due exactly then if this is a whole number
        return max(0, floor(draw) + 1 - (draw.denominator == 1 and source > of))

    def _key(self, position: Position) -> GroupKey:
        time, source = position
        epoch, place = divmod(int(time * self._weights[source] - _HALF), len(self._shares[source].prompt_ids))
        return GroupKey("train", epoch, self._order(source, epoch)[place])

    def _order(self, source: int, epoch: int) -> list[str]:
        at = source, epoch
        if at not in self._orders:
            ids = self._shares[source].prompt_ids
            shuffled = np.random.default_rng([self._seed, epoch, source]).permutation(len(ids))
            self._orders[at] = [ids[i] for i in shuffled]
            self._places[at] = {prompt_id: place for place, prompt_id in enumerate(self._orders[at])}
        return self._orders[at]
