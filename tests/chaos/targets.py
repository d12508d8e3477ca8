"""Who can be hit in a run, and how they are found: by what their processes are called."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of process."""

    name: str
    called: str
    """Part of the command line, or of the title, of such a process."""
    supervised: bool = True
    """Whether its end is an incident of the run; scoring processes are the verifier pool's own matter."""

    def find(self, family: list[psutil.Process]) -> list[psutil.Process]:
        """Those of the family that are up: constructed, not a zombie, oldest first."""
        found = [process for process in family if self.called in title(process)]
        return sorted(found, key=lambda process: process.create_time())


TARGETS = {
    target.name: target
    for target in (
        Target("worker", "ray::RolloutWorker"),
        Target("engine", "EngineCore"),
        Target("verifier pool", "ray::VerifierPool"),
        Target("scorer", "verifiers.template", supervised=False),
        Target("learner rank", "ray::LearnerRank"),
        Target("broadcaster", "ray::WeightBroadcaster"),
        Target("buffer", "ray::RolloutBuffer"),
        Target("controller", "ray::Controller"),
    )
}


def title(process: psutil.Process) -> str:
    """What a process is called; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def ended(process: psutil.Process) -> bool:
    """Whether it runs no more; a zombie does not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
