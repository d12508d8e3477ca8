"""What a run has committed and what it is about to: the manifest, and the checkpoints that it names.

    consumes    changes of the run's state, at step boundaries
    produces    manifests, each written last, by atomic rename
    waits for   the learner, while a checkpoint becomes durable
    unblocked   by the disk

Whatever the last manifest does not name, and no *trained* record says, did not happen.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.manifest import Manifest
from actors.plan import Plan
from actors.progress import Progress
from actors.protocols import Learner
from actors.records import EvalRow
from actors.step_checkpoints import StepCheckpoints
from rollout.storage import Storage
from trainer.directories import NotWritten
from trainer.phases import Phase


class Commits:
    """The manifest of one run."""

    def __init__(
        self,
        plan: Plan,
        run_dir: Path,
        storage: Storage,
        learner: Learner,
        progress: Progress,
        clock: Callable[[], float],
    ) -> None:
        """Take the run up where its last manifest left it.

        Raises:
            ValueError: When it was begun under another configuration.
        """
        self.run_dir = run_dir
        self._storage = storage
        self._learner = learner
        self._progress = progress
        self._checkpoints = StepCheckpoints(plan, run_dir, learner, clock)
        self.now = Manifest.next_start(storage, plan.config_digest)
        """The run as it is."""
        self.last = self.now
        """The run as it was committed last, without what a crash would undo."""

    def change(self, **fields: Any) -> None:
        """Something about the run is different now; it counts from the next commit on."""
        self.now = replace(self.now, **fields)

    async def open(self) -> None:
        """The next start of the run begins: it is the next incarnation, and what a crash left takes room."""
        if self.now.weights:
            self.now.save(self._storage)
        await self._checkpoints.prune(self.now, self.now)

    async def commit(self, manifest: Manifest) -> None:
        """This is what happened."""
        manifest.save(self._storage)
        self.last = manifest
        await self._checkpoints.prune(manifest, self.now)

    async def conclude(self, digest: str, row: EvalRow | None) -> None:
        """The phase under way is over; weights of this hash are what it produced."""
        self.now = self.now.committed(digest, row)
        await self.commit(self.now)

    def note_failed_evaluation(self, number: int) -> None:
        """Too many answers of an evaluation had no verdict: the next start draws all of them again."""
        self.change(failed_evals=(*self.now.failed_evals, number))
        self.last = replace(self.last, failed_evals=self.now.failed_evals)
        self.last.save(self._storage)

    # -- weights that have a name -----------------------------------------------------------------------------

    async def keep(self, name: str) -> None:
        """Save the learner's weights under a name, for phases to start from and for other tools to load.

        Raises:
            NotWritten: The disk refused them.
        """
        await self.settle()  # one save at a time: else nobody would hear how the one under way ends
        await self._learner.save(self.weights_dir(name), optimizer=False)
        await self._checkpoints.written(name)
        await self._learner.export(str(self.exported(name)))

    def has(self, name: str) -> bool:
        """Whether weights of that name are whole on the disk."""
        return self.exported(name).exists()

    def weights_dir(self, name: str) -> str:
        """Where the learner finds named weights."""
        return str(self.run_dir / "checkpoints" / name / "weights")

    def initial(self, phase: Phase) -> str | None:
        """Where the learner finds what a phase starts from; None when that is made from nothing."""
        return None if phase.init_from == "scratch" else self.weights_dir(phase.init_from)

    def exported(self, name: str) -> Path:
        """Where other tools find them: a Hugging Face model directory."""
        return self.run_dir / "checkpoints" / name / "hf"

    # -- checkpoints of steps ---------------------------------------------------------------------------------

    def begin_phase(self) -> None:
        """A phase begins, or is taken up at its last checkpoint."""
        self._checkpoints.begin_phase()

    async def after_step(self, last: bool) -> None:
        """Commit what has become durable; begin the next checkpoint if it is time, or the phase is at its last step."""
        await self.settle(wait=False)
        if last or (self._checkpoints.due() and self.now.guard.happy):
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Save the learner's whole state at this step; what is under way comes first."""
        await self.settle()
        self._progress.waiting(f"learner: checkpoint of step {self.now.step}")
        await self._checkpoints.begin(self.now)

    async def settle(self, wait: bool = True) -> None:
        """Commit the step whose checkpoint is durable; training may be further by then."""
        if wait and self._checkpoints.saving:
            self._progress.waiting(f"learner: {self._checkpoints.saving} on the disk")
        if saved := await self._checkpoints.durable(wait):
            self.change(checkpoints=saved.checkpoints)
            await self.commit(saved)
        self._progress.update(message=self._checkpoints.failure)

    async def settled(self) -> None:
        """Wait for the checkpoint under way; `NotWritten` when the disk refused it."""
        await self.settle()
        if self.failure:
            raise NotWritten(self.failure)

    @property
    def failure(self) -> str:
        """Why the last checkpoint could not be written; empty when it could."""
        return self._checkpoints.failure
