"""Watches the share of answers without a verdict: with too many, the rest is no fair sample of what was generated."""

from collections import deque

from rollout.records import RolloutGroup

_JUDGED_STEPS = 4  # the share is over the groups of so many steps


class TooManyFailures(RuntimeError):
    """Too many answers have no verdict: what would be trained is no fair sample of what was generated."""


class FailureWatch:
    """The last groups of a phase that generates."""

    def __init__(self, groups_per_step: int, max_failed_frac: float) -> None:
        self._max_failed_frac = max_failed_frac
        self._groups: deque[tuple[int, int]] = deque(maxlen=_JUDGED_STEPS * groups_per_step)  # (failed, answers)
        self._complaint = ""  # what the verifier said last about an answer without a verdict

    def see(self, group: RolloutGroup) -> None:
        """A group finished."""
        failed = [rollout for rollout in group.rollouts if not rollout.trainable]
        self._groups.append((len(failed), len(group.rollouts)))
        if failed:
            self._complaint = failed[-1].verdict.feedback

    def refuse(self) -> None:
        """Raise `TooManyFailures` once the share is over what `rollout.max_failed_frac` allows."""
        if len(self._groups) < (self._groups.maxlen or 0):
            return
        failed, answers = (sum(column) for column in zip(*self._groups, strict=True))
        if failed > self._max_failed_frac * answers:
            raise TooManyFailures(
                f"{failed} of the last {answers} answers have no verdict, rollout.max_failed_frac allows "
                f"{self._max_failed_frac:g}; the last one: {self._complaint or 'no feedback'}. Mend the "
                f"verifier (or raise verifier.timeout_s) and resume: the answers are kept"
            )
