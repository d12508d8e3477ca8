"""What the choice of an expert set came to: every correct answer of the phase is kept, or left out for one reason."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExpertReport:
    """Counts of one expert set. `correct` = `truncated` + `too_easy` + `duplicates` + `over_cap` + `kept`."""

    attempts: int = 0
    """Answers of the phase with a verdict, whatever became of their groups."""
    correct: int = 0
    """Of these."""
    truncated: int = 0
    """Correct, but cut off at the length limit, or without a token."""
    too_easy: int = 0
    """Correct and whole, but of problems that are."""
    duplicates: int = 0
    """The same tokens as an earlier answer to the same problem."""
    over_cap: int = 0
    """Beyond `max_per_prompt` of their problem."""
    kept: int = 0
    tokens: int = 0
    """Of the kept answers."""
    prompts: int = 0
    """Problems with an answer that has a verdict."""
    prompts_unsolved: int = 0
    """Problems without a correct answer."""
    prompts_too_easy: int = 0
    """Problems with a success rate above `tau_hard`."""
    prompts_capped: int = 0
    """Problems of which `max_per_prompt` left answers out."""
    prompts_kept: int = 0
    """Problems that contribute."""
    per_step: dict[int, int] = field(default_factory=dict)
    """RL step → answers kept from it, 0 included, for every step at which a group came in."""
    mean_success: float = 0.0
    """Mean success rate s(x) of the contributing problems; 0 without any."""
    diversity: float | None = None
    """1 - mean Jaccard similarity of the 4-grams of two kept answers to one problem (`rollout.expert_diversity`); None
    when no problem has two."""

    @property
    def prompts_solved(self) -> int:
        """Problems with a correct answer."""
        return self.prompts - self.prompts_unsolved

    def __str__(self) -> str:
        """One line, for a log."""
        diversity = "" if self.diversity is None else f", diversity {self.diversity:.2f}"
        return (
            f"{self.kept:,} of {self.correct:,} correct answers kept, to {self.prompts_kept:,} of {self.prompts:,} "
            f"problems, mean success {self.mean_success:.2f}{diversity} (left out: {self.truncated:,} truncated, "
            f"{self.too_easy:,} too easy, {self.duplicates:,} duplicates, {self.over_cap:,} over the cap)"
        )
