"""The manifest: the one file that says what a run has committed. Written last, by atomic rename.

Resume = manifest + journal. Whatever the manifest does not name did not happen.
"""

import json
from dataclasses import asdict, dataclass, field, replace

from actors.records import EvalRow
from rollout.storage import Storage
from trainer.early_stop import Lowest
from trainer.guard import Standing
from trainer.phase_end import Signals
from trainer.phases import Phase

FILE_NAME = "manifest.json"
_FORMAT = 6
_OTHERWISE = (
    "done",
    "checkpoints",
    "guard",
    "signals",
    "lowest",
    "restored",
    "evals",
    "evaluating",
    "failed_evals",
    "isolation",
)  # in JSON


@dataclass(frozen=True, slots=True)
class Manifest:
    """The committed state of a run at a step boundary."""

    config_digest: str
    incarnation: int = 0
    """How often the run was started."""
    done: tuple[Phase, ...] = ()
    """Phases that are committed."""
    phase: Phase | None = None
    """The phase under way, if it has a checkpoint."""
    step: int = 0
    """Steps done in `phase`."""
    steps: int = 0
    """Steps `phase` has in all."""
    checkpoints: tuple[str, ...] = ()
    """Directories of the learner's state (weights, optimizer, RNG), relative to the run, oldest first: the last is at
    `step`, those before it at earlier steps of `phase`."""
    proven: int = 0
    """Step of `phase` whose weights the step after it found inside all bands of the guard; the newest such one."""
    dataset: str = ""
    """Supervised data of `phase`, relative to the run; empty in RL."""
    version: int = 0
    """Policy version number of the weights at `step`."""
    digest: str = ""
    """sha256 of the weights of that number, where a phase begins or ends; empty in between."""
    guard: Standing = field(default_factory=Standing)
    """What the stability guard remembers of `phase` at `step`."""
    signals: Signals = field(default_factory=Signals)
    """What `trainer.phase_end` remembers of `phase` at `step`."""
    lowest: Lowest = field(default_factory=Lowest)
    """The best step of `phase` by held-out loss, where it holds something out."""
    restored: tuple[tuple[int, int], ...] = ()
    """(version, the version whose weights it has again) of each RL step that the stability guard rolled back."""
    weights: dict[str, str] = field(default_factory=dict)
    """Named weights → sha256 of their tensors."""
    started_from: dict[str, str] = field(default_factory=dict)
    """Named weights → sha256 of the weights that the phase which made them began with, as the learner held them."""
    evals: tuple[EvalRow, ...] = ()
    evaluating: tuple[tuple[int, int], ...] = ()
    """(version, RL step) of each evaluation that was due in `phase` at `step`, and was not over."""
    failed_evals: tuple[int, ...] = ()
    """Numbers of evaluations that were refused: too many answers had no verdict. Those are not used again."""

    isolation: tuple[str, ...] = ()
    """Tiers of the sandbox in which code of trained answers ran, in order; empty where none did."""

    @property
    def checkpoint(self) -> str:
        """The directory to go on from at `step`; empty before the first of a phase."""
        return self.checkpoints[-1] if self.checkpoints else ""

    @property
    def kept_steps(self) -> set[str]:
        """Names of weights in the middle of a phase that are kept, or may have to be."""
        due = {f"{self.phase.produces}-step-{step}" for _, step in self.evaluating} if self.phase else set()
        return due | {row.weights for row in self.evals if row.step and row.kept}

    @property
    def step_directory(self) -> str:
        """Where the learner's state at `step` is saved, relative to the run."""
        assert self.phase is not None
        return f"checkpoints/steps/{self.phase.kind}-{self.phase.iteration}-{self.step}"

    def save(self, run: Storage) -> None:
        """Write durably and atomically: a crash leaves the old manifest or the new one."""
        run.replace(FILE_NAME, json.dumps({"format": _FORMAT, **asdict(self)}, indent=1).encode())

    @classmethod
    def load(cls, run: Storage) -> "Manifest | None":
        """What a run has committed; None before its first commit.

        Raises:
            ValueError: When it was written by another format of RLoop.
        """
        if FILE_NAME not in run.names():
            return None
        fields = json.loads(bytes(run.read(FILE_NAME)))
        if (found := fields.pop("format")) != _FORMAT:
            raise ValueError(
                f"{run}/{FILE_NAME} has format {found}, this RLoop reads {_FORMAT}; use the RLoop that wrote it"
            )
        phase = fields.pop("phase")
        return cls(
            **{k: v for k, v in fields.items() if k not in _OTHERWISE},
            done=tuple(Phase.of(p) for p in fields["done"]),
            checkpoints=tuple(fields["checkpoints"]),
            guard=Standing(**fields["guard"] | {"grad_norms": tuple(fields["guard"]["grad_norms"])}),
            signals=Signals.of(fields["signals"]),
            lowest=Lowest(**fields["lowest"]),
            restored=tuple((version, again) for version, again in fields["restored"]),
            evaluating=tuple((version, step) for version, step in fields["evaluating"]),
            failed_evals=tuple(fields["failed_evals"]),
            isolation=tuple(fields["isolation"]),
            evals=tuple(EvalRow(**row) for row in fields["evals"]),
            phase=Phase.of(phase) if phase else None,
        )

    @classmethod
    def next_start(cls, run: Storage, config_digest: str) -> "Manifest":
        """Where the next start of a run takes it up; a run that committed nothing begins.

        Raises:
            ValueError: When it was begun under another configuration.
        """
        found = cls.load(run) or cls(config_digest=config_digest)
        if found.config_digest != config_digest:
            raise ValueError(
                f"the manifest of {run} was written under another configuration ({found.config_digest[:12]}, now "
                f"{config_digest[:12]}); restore config.yaml as it was, or start a new run with --name"
            )
        return replace(found, incarnation=found.incarnation + 1)

    @property
    def last_good(self) -> tuple[str, int]:
        """Directory and step of the newest proven checkpoint; of the newest of all where none is proven."""
        steps = [(directory, int(directory.rpartition("-")[2])) for directory in self.checkpoints]
        return next((one for one in reversed(steps) if one[1] <= self.proven), steps[-1])

    def committed(self, weights_hash: str, row: EvalRow | None) -> "Manifest":
        """This manifest with the phase under way finished."""
        assert self.phase is not None
        return replace(
            self,
            done=(*self.done, self.phase),
            phase=None,
            step=0,
            steps=0,
            checkpoints=(),
            proven=0,
            dataset="",
            guard=Standing(),
            signals=Signals(),
            lowest=Lowest(),
            weights={**self.weights, self.phase.produces: weights_hash},
            evals=(*self.evals, row) if row else self.evals,
        )
