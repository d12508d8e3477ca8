"""Exit codes of `rloop`: what scripts may rely on."""

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    UNFIT = 3
    INTERRUPTED = 130


MEANING = {
    Exit.DONE: "done",
    Exit.FAILED: "the run failed, the message says where its log is; or an audit that found faults",
    Exit.REFUSED: "refused before anything started: bad command line, configuration or input",
    Exit.UNFIT: "this environment cannot run RLoop (`rloop doctor`)",
    Exit.INTERRUPTED: "interrupted after a checkpoint; `rloop resume` goes on",
}
