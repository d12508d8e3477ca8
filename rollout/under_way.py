"""What a buffer works on: one phase that trains, samples or is supervised, and perhaps an evaluation beside it.

Held-out groups are a lease class of their own: they go first, but while a phase generates they have at most half of
what may be in flight, so that training goes on.
"""

from rollout.buffer_state import EvalPhase, Generates, RLPhase, SFTPhase
from rollout.lease_desk import LeaseDesk
from rollout.records import GroupKey, Lease
from rollout.sample_phase import SamplePhase


class UnderWay:
    """The phase and the evaluation; nothing at first."""

    def __init__(self) -> None:
        self.phase: RLPhase | SamplePhase | SFTPhase | None = None
        self.evaluation: EvalPhase | None = None

    def of(self, key: GroupKey) -> Generates:
        """What a group on lease belongs to."""
        owner = self.evaluation if key.purpose == "eval" else self.generating
        assert owner is not None, "leases end with their phase"
        return owner

    def grant(self, desk: LeaseDesk, worker: str, max_groups: int) -> list[Lease]:
        """Leases for a worker; those that were not renewed in time are free before."""
        desk.take_back_expired()
        leases: list[Lease] = []
        if self.evaluation:
            room = max_groups
            if self.generating:
                room = min(room, desk.max_in_flight // 2 - len(desk.out.held("eval")))
            leases += desk.grant(self.evaluation, worker, room)
        if self.generating:
            leases += desk.grant(self.generating, worker, max_groups - len(leases))
        return leases

    def unwanted(self, desk: LeaseDesk, worker: str) -> list[GroupKey]:
        """Groups of a worker that its round does not need any more."""
        phase = self.phase
        if not isinstance(phase, RLPhase) or not phase.admission.surplus:
            return []
        return [key for key in desk.out.of(worker) if key.purpose == "train" and key not in phase.late]

    @property
    def generating(self) -> RLPhase | SamplePhase | None:
        """The phase, if its groups are leased."""
        return self.phase if isinstance(self.phase, RLPhase | SamplePhase) else None

    @property
    def rl(self) -> RLPhase:
        """The RL phase; `RuntimeError` when another or none is under way."""
        if not isinstance(self.phase, RLPhase):
            raise RuntimeError("no RL phase is under way; call begin_rl first")
        return self.phase

    @property
    def sampling(self) -> SamplePhase:
        """The phase that samples; `RuntimeError` when another or none is under way."""
        if not isinstance(self.phase, SamplePhase):
            raise RuntimeError("no phase that samples is under way; call begin_sample first")
        return self.phase

    @property
    def supervised(self) -> SFTPhase:
        """The supervised phase; `RuntimeError` when another or none is under way."""
        if not isinstance(self.phase, SFTPhase):
            raise RuntimeError("no supervised phase is under way; call begin_sft first")
        return self.phase
