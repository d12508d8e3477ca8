"""Who generates what: hands groups out, hears how they are getting on, takes them back.

One thread, no waiting: the buffer (`actors.buffer`) waits, and makes durable what is booked here.
"""

import logging
import math
from collections.abc import Callable

from rollout.bookkeeper import Bookkeeper
from rollout.buffer_state import EvalPhase, Generates, RLPhase
from rollout.config import RolloutConfig
from rollout.events import Leased, Released
from rollout.leases import Leases
from rollout.prompt_set import PromptSet
from rollout.records import GroupKey, GroupProgress, Lease, Sampling

logger = logging.getLogger(__name__)

_ON_THEIR_WAY = 1.25  # leases per group that is generated: the others are scored and delivered meanwhile


class LeaseDesk:
    """Leases of the phases under way."""

    def __init__(
        self,
        books: Bookkeeper,
        prompts: PromptSet,
        config: RolloutConfig,
        seed: int,
        timeout_s: float,
        clock: Callable[[], float],
        drop: Callable[[GroupKey, str], None],
        phase_of: Callable[[GroupKey], Generates],
    ) -> None:
        """`drop` records that a free group will not be leased again, and why; `phase_of` is what a group belongs to."""
        self._books = books
        self._prompts = prompts
        self._config = config
        self._seed = seed
        self._drop = drop
        self._phase_of = phase_of
        self.out = Leases(timeout_s, clock)
        self.workers: set[str] = set()
        """Who has asked for work, and is not known to be gone."""
        self.expired = 0
        """Leases that were not renewed in time."""
        self.reported = 0
        """Tokens that came in with reports."""

    @property
    def max_in_flight(self) -> int:
        """Leases that may be out: what the workers generate at once, and a quarter more on its way in."""
        return math.ceil(_ON_THEIR_WAY * self._config.max_concurrent) * len(self.workers)

    def take_back_expired(self) -> None:
        """Groups whose leases were not renewed in time are free."""
        for key in self.out.expired():
            self.expired += 1
            logger.warning("the lease of %s expired: it is leased again", key)
            self.take_back(key, "expired")

    def grant(self, phase: Generates, worker: str, max_groups: int) -> list[Lease]:
        """What the phase allows now.

        Groups that lost their workers too often are dropped instead: whatever ends a worker would end the next one.
        """
        leases: list[Lease] = []
        while keys := phase.take(max_groups - len(leases), self.max_in_flight):
            for key in keys:
                if self._books.ledger.losses(key) < self._config.max_attempts:
                    leases.append(self._lease(phase, worker, key))
                else:
                    self._give_up(phase, key)
        return leases

    def hear(self, worker: str, progress: GroupProgress) -> bool:
        """Keep what a report says of a group; False when the worker does not hold this lease (any more)."""
        if not self._books.ledger.holds(worker, progress.key, progress.attempt):
            self._books.refuse(worker, progress)
            return False
        self.out.renew(progress.key)
        self.reported += self._books.progress(worker, progress)
        return True

    def take_back(self, key: GroupKey, reason: str) -> None:
        """A lease ends without a result; what is known of the group's answers is kept."""
        self._books.record(Released(key, reason))
        self.out.end(key)
        self._phase_of(key).put_back(key)

    def describe(self) -> str:
        """Who has what, for messages."""
        return self.out.describe() if self.workers else "no worker has asked for work"

    def _lease(self, phase: Generates, worker: str, key: GroupKey) -> Lease:
        self._discard_unusable(phase, key)
        attempt = self._books.ledger.attempts(key)
        self._books.record(Leased(key, worker, attempt))
        self.out.grant(worker, key)
        samples, temperature = self._config.group_size, self._config.temperature
        if isinstance(phase, EvalPhase):
            samples, temperature = phase.samples, phase.temperature
        sampling = Sampling(self._config.max_new_tokens, temperature, self._seed)
        pieces = self._books.unfinished.pieces(key)
        versions = [int(piece.segment.versions.min()) for piece in pieces if len(piece.segment)]
        phase.leased(key, min(versions, default=None))
        return Lease(key, self._prompts[key], samples, sampling, attempt, pieces)

    def _give_up(self, phase: Generates, key: GroupKey) -> None:
        logger.warning(
            "%s was leased to %d workers that were lost (rollout.max_attempts=%d): the group is dropped",
            f"{key.purpose}/{key.epoch}/{key.prompt_id}",
            self._books.ledger.losses(key),
            self._config.max_attempts,
        )
        self._books.discard(key, self._books.unfinished.samples(key), "failed")
        self._drop(key, "failed")
        phase.fail(self._prompts[key])

    def _discard_unusable(self, phase: Generates, key: GroupKey) -> None:
        """Let samples start again whose tokens would be too old to be trained, or must be drawn in one go."""
        unfinished = self._books.unfinished
        if self._config.deterministic:
            self._books.discard(key, unfinished.samples(key), "deterministic")
        elif isinstance(phase, RLPhase):
            stale = unfinished.stale_samples(key, phase.next_new, phase.max_staleness)
            self._books.discard(key, stale, "stale")
