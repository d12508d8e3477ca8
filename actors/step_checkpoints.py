"""Checkpoints of single steps: written while training goes on, named by the manifest once durable, the last few kept.

At most one is under way. What goes into the manifest is the step that was saved; training may be further by then.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from actors.manifest import Manifest
from actors.plan import Plan
from actors.protocols import Learner
from actors.waiting import DeadlineExceeded
from trainer.directories import NotWritten

logger = logging.getLogger(__name__)

_ASK_EVERY_S = 1.0  # a learner rank does nothing else while it is asked


class StepCheckpoints:
    """Saves steps of the phase under way, and removes what the manifest names no more."""

    def __init__(self, plan: Plan, run_dir: Path, learner: Learner, clock: Callable[[], float]) -> None:
        self._plan = plan
        self._run_dir = run_dir
        self._learner = learner
        self._clock = clock
        self._begun_at = clock()
        self._saving: Manifest | None = None
        self.failure = ""
        """Why the last one could not be written; empty when it could."""

    @property
    def saving(self) -> str:
        """The directory that is being written, relative to the run; empty when there is none."""
        return self._saving.checkpoint if self._saving else ""

    def begin_phase(self) -> None:
        """A phase begins, or is taken up at its last checkpoint."""
        self._begun_at = self._clock()

    def due(self) -> bool:
        """Whether it is time to begin the next one."""
        return not self._saving and self._clock() - self._begun_at >= self._plan.checkpoint_every_s

    async def begin(self, manifest: Manifest) -> None:
        """Copy the learner's whole state, which is that of `manifest`; it is written from then on."""
        assert not self._saving
        directory = manifest.step_directory
        if directory == manifest.checkpoint:
            return  # committed already; rewriting it in place would leave a moment without it
        self._begun_at = self._clock()
        await self._learner.save(str(self._run_dir / directory), optimizer=True)
        self._saving = replace(manifest, checkpoints=(*manifest.checkpoints, directory)[-self._plan.keep_checkpoints :])

    async def durable(self, wait: bool) -> Manifest | None:
        """The manifest to commit now, if a save has ended well; with `wait` once it has ended.

        A save that the disk refused is given up: earlier checkpoints stand, and the next one may succeed.

        Raises:
            DeadlineExceeded: When it has not ended in time.
        """
        if not self._saving:
            return None
        try:
            if wait:
                await self.written(self.saving)
            elif not await self._learner.saved(0.0):
                if self._clock() - self._begun_at > self._plan.save_timeout_s:
                    raise self._too_slow(self.saving)
                return None
        except NotWritten as error:
            self._saving, self.failure = None, str(error)
            logger.warning("%s. The run goes on, with the checkpoint before as the one to resume from", error)
            return None
        self.failure = ""
        saved, self._saving = self._saving, None
        return saved

    async def written(self, directory: str) -> None:
        """Wait until the learner's last save is durable; `directory` is for the sentence when it is not in time."""
        give_up_at = self._clock() + self._plan.save_timeout_s
        while not await self._learner.saved(_ASK_EVERY_S):
            if self._clock() > give_up_at:
                raise self._too_slow(directory)

    def _too_slow(self, directory: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"controller waits for checkpoint {directory}: not durable in {self._plan.save_timeout_s:g} s; its disk is "
            "slow or stuck; mend that, or raise actors.learner_timeout_s"
        )

    async def prune(self, committed: Manifest, now: Manifest) -> None:
        """Remove what nobody needs: older steps, those of other phases, drafts, and policies that were not the best."""
        home = self._run_dir / "checkpoints"
        named = {self._run_dir / directory for directory in (*committed.checkpoints, committed.lowest.checkpoint)}
        kept = {home / name for manifest in (committed, now) for name in manifest.kept_steps}
        gone = [found for found in (home / "steps").glob("*") if found not in named]
        gone += [found for found in home.glob("*-step-*") if found not in kept]
        for found in gone:
            await asyncio.to_thread(shutil.rmtree, found)  # a slow disk must not look like a hang
