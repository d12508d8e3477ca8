"""Why a run ends before its schedule does."""


class Interrupted(Exception):
    """Somebody asked the run to stop; its state is committed."""


class EvaluationFailed(RuntimeError):
    """Too many answers could not be judged for the evaluation to mean anything."""


class NotTheStartingPolicy(RuntimeError):
    """A phase would have started from other weights than its schedule says."""


class Unstable(RuntimeError):
    """The stability guard has nothing left to try."""
