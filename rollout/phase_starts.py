"""How a phase starts, or is taken up, from what the journal has of it."""

from collections.abc import Callable, Mapping, Sequence

from rollout.admission import Admission
from rollout.bookkeeper import Bookkeeper
from rollout.buffer_state import EvalPhase, RecordedStep, RLPhase
from rollout.config import RolloutConfig
from rollout.curation import GroupCurator
from rollout.events import Trained
from rollout.failures import FailureWatch
from rollout.prompt_order import PromptOrder
from rollout.prompt_set import PromptSet
from rollout.records import EvalCounts, GroupKey, RolloutGroup
from rollout.sample_phase import SamplePhase


class PhaseStarts:
    """Puts phases together for one buffer.

    Args:
        books: The run's.
        prompts: What groups are made from.
        curator: Decides which groups are trained.
        config: The run's.
        order: In which training prompts come.
        drop: Records that a buffered group will not be trained, and why.
    """

    def __init__(
        self,
        books: Bookkeeper,
        prompts: PromptSet,
        curator: GroupCurator,
        config: RolloutConfig,
        order: PromptOrder,
        drop: Callable[[GroupKey, str], None],
    ) -> None:
        self._books = books
        self._prompts = prompts
        self._curator = curator
        self._config = config
        self._order = order
        self._drop = drop

    async def rl(
        self, iteration: int, version: int, done_steps: int, steps_left: int, again: Sequence[Trained]
    ) -> RLPhase:
        """An RL phase after `done_steps`; the recorded steps `again` come first, finished groups are ready.

        What other phases left behind goes.
        """
        config, kept = self._config, await self._left_by(iteration)
        groups = await self._groups(again, kept)
        if again and again[-1].ends:
            steps_left = len(again)
        accepted = len(again) * config.groups_per_step + len(kept)
        phase = RLPhase(
            iteration,
            done_steps,
            version,
            Admission(config.max_staleness, config.groups_per_step, version, steps_left, accepted, config.oversample),
            self._order,
            self._curator,
            config,
            [groups[key] for key in kept],
            _with_groups(again, groups),
            *await self._books.seen(iteration),
        )
        phase.tighten(self._books.ledger.bounds.get(iteration, config.max_staleness))
        return phase

    async def sample(self, iteration: int, groups: int) -> SamplePhase:
        """A phase that samples `groups` groups, less those that are in; what other phases left behind goes."""
        await self._left_by(iteration)
        entries = self._books.ledger.entries.items()
        done = sum(
            key.purpose == "train" and entry.iteration == iteration and entry.state == "dropped"
            for key, entry in entries
        )
        config = self._config
        watch = FailureWatch(config.groups_per_step, config.max_failed_frac)
        return SamplePhase(iteration, groups, config.groups_per_step, self._order, watch, done)

    async def _left_by(self, iteration: int) -> list[GroupKey]:
        """Groups that wait to be trained in the phase of this iteration; those of others are dropped.

        Unfinished answers of the phase are taken back into memory, the prompts' order to where it was.
        """
        books, ledger = self._books, self._books.ledger
        kept = []
        for key in ledger.buffered():
            if ledger.entries[key].iteration == iteration:
                kept.append(key)
            else:
                self._drop(key, "phase_over")
        await books.restore([key for key in ledger.unfinished() if key.purpose == "train"])
        for key in ledger.unfinished():
            if key.purpose == "train" and ledger.entries[key].iteration != iteration:
                books.discard(key, books.unfinished.samples(key), "phase_over")
        self._order.rewind()
        return kept

    async def recorded(self, again: Sequence[Trained]) -> list[RecordedStep]:
        """The steps with their groups, to be trained again."""
        return _with_groups(again, await self._groups(again))

    async def evaluation(self, number: int, samples: int, temperature: float, limit: int | None) -> EvalPhase:
        """An evaluation of the first `limit` held-out prompts, with the answers that it has already."""
        ledger, prompts = self._books.ledger, tuple(self._prompts.held_out)[:limit]
        keys = [GroupKey("eval", number, prompt_id) for prompt_id in prompts]
        evaluated = [key for key in keys if ledger.state(key) == "evaluated"]
        done = await self._books.groups(evaluated, self._prompts, curator=None)
        failed = [self._prompts[key] for key in keys if ledger.state(key) == "dropped"]
        await self._books.restore(sorted(set(keys).intersection(ledger.unfinished())))
        return EvalPhase(number, samples, temperature, prompts, done.values(), failed)

    async def counts(self, number: int) -> list[EvalCounts]:
        """Who was right in an evaluation that was finished before, without lengths and votes."""
        held_out = {GroupKey("eval", number, prompt_id) for prompt_id in self._prompts.held_out}
        return await self._books.evaluated(held_out)

    async def _groups(self, steps: Sequence[Trained], more: Sequence[GroupKey] = ()) -> dict[GroupKey, RolloutGroup]:
        trained = [key for step in steps for key in step.keys]
        return await self._books.groups([*more, *trained], self._prompts, self._curator)


def _with_groups(steps: Sequence[Trained], groups: Mapping[GroupKey, RolloutGroup]) -> list[RecordedStep]:
    return [RecordedStep(step.version, tuple(groups[key] for key in step.keys), step.ends, step.seen) for step in steps]
