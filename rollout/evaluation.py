"""What held-out answers say: pass@k and its companions over all problems and per set. Pure functions of counts.

Every estimate is a mean over problems, so its interval comes from resampling problems: the answers of one problem are
draws from one policy, the problems are what another test would have had others of.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rollout.majority import majority_at_k
from rollout.records import EvalCounts

LOW, HIGH = "_low", "_high"
"""What the ends of a metric's interval are called: `pass@8_low`, `pass@8_high`."""
_LEVEL = 0.95
_RESAMPLES = 1_000

Floats = npt.NDArray[np.float64]


def pass_at_k(scored: int, correct: int, k: int) -> float:
    """Probability that at least one of k answers is correct, estimated from c correct ones of n scored.

    1 − C(n−c, k) / C(n, k), the unbiased estimator of 2107.03374 (Eq. 1).
    """
    _require_answers(scored, correct, k)
    return 1.0 - _all_among(scored - correct, scored, k)


def worst_at_k(scored: int, correct: int, k: int) -> float:
    """Probability that all of k answers are correct: C(c, k) / C(n, k), called pass^k in 2406.12045."""
    _require_answers(scored, correct, k)
    return _all_among(correct, scored, k)


def _require_answers(scored: int, correct: int, k: int) -> None:
    if not (1 <= k <= scored and 0 <= correct <= scored):
        raise ValueError(
            f"pass@k needs 1 <= k <= scored and 0 <= correct <= scored, got k={k}, scored={scored}, correct={correct}; "
            f"draw more answers per problem or use a smaller k"
        )


def _all_among(some: int, scored: int, k: int) -> float:
    """C(some, k) / C(scored, k) as a product of k factors, which neither overflows nor cancels."""
    if some < k:
        return 0.0
    chance = 1.0
    for i in range(k):
        chance *= (some - i) / (scored - i)
    return chance


def summarize(counts: Sequence[EvalCounts], ks: Sequence[int]) -> dict[str, float]:
    """Metrics of one evaluation: of all problems (`pass@8`) and of each held-out set (`4 numbers/pass@8`).

    `avg@n` for the n answers of a problem, `pass@k` for every k, `maj@k` and `worst@k` for every k above 1 (at 1 all
    are alike), each with the ends of its interval (`pass@8_low`, `pass@8_high`: 95 %, percentile bootstrap over
    problems with a fixed seed). Of all attempts: `truncated_frac`, `failed_frac` and `response_len_mean` in tokens;
    `entropy`, the mean of -log p over their tokens in nats; `distinct_frac`, distinct final answers per scored answer.
    `problems` counts them.

    Attempts without a verdict (`failed`) say nothing and are left out of n. A problem with fewer than k scored
    attempts has no unbiased pass@k and is left out of that mean; `skipped@k` counts such problems and appears only
    when there are any. A metric that no problem can give is absent.
    """
    if not counts:
        return {}
    n = max(problem.attempts for problem in counts)
    estimates = [_estimates(problem, ks, n) for problem in counts]
    values = {name: np.array([of_problem[name] for of_problem in estimates]) for name in estimates[0]}
    metrics = _metrics(counts, values, ks)
    for tag in sorted({problem.tag for problem in counts if problem.tag}):
        rows = [i for i, problem in enumerate(counts) if problem.tag == tag]
        of_tag = _metrics([counts[i] for i in rows], {name: column[rows] for name, column in values.items()}, ks)
        metrics |= {f"{tag}/{name}": value for name, value in of_tag.items()}
    return metrics


def by_set(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What `summarize` gave, by held-out set; all problems together are the set ``."""
    sets: dict[str, dict[str, float]] = {"": {}}
    for name, value in metrics.items():
        tag, _, metric = name.rpartition("/")
        sets.setdefault(tag, {})[metric] = value
    return sets


def forgetting(before: Sequence[EvalCounts], after: Sequence[EvalCounts]) -> float:
    """F(before → after) = |solved before, not after| / |solved before|; 0 when nothing was solved before.

    A problem is solved by one correct answer, so both evaluations should have as many answers per problem. Problems
    without any verdict on one of the sides are left out.
    """
    now = {problem.prompt_id: problem.correct > 0 for problem in after if problem.scored}
    kept = [now[problem.prompt_id] for problem in before if problem.correct and problem.prompt_id in now]
    return 1.0 - sum(kept) / len(kept) if kept else 0.0


def _estimates(problem: EvalCounts, ks: Sequence[int], n: int) -> dict[str, float]:
    """Estimates for one problem by name, the same names for every problem; NaN where too few answers have a verdict."""
    scored, correct = problem.scored, problem.correct
    estimates = {f"avg@{n}": pass_at_k(scored, correct, 1) if scored else np.nan}
    for k in ks:
        estimates[f"pass@{k}"] = pass_at_k(scored, correct, k) if scored >= k else np.nan
    several = [k for k in ks if k > 1]
    for k in several:
        estimates[f"maj@{k}"] = majority_at_k(problem.votes, problem.right, k) if sum(problem.votes) >= k else np.nan
    for k in several:
        estimates[f"worst@{k}"] = worst_at_k(scored, correct, k) if scored >= k else np.nan
    return estimates


def _metrics(counts: Sequence[EvalCounts], values: Mapping[str, Floats], ks: Sequence[int]) -> dict[str, float]:
    """Means over these problems with their intervals, and what is counted rather than estimated."""
    known = {name: column for name, column in values.items() if not np.isnan(column).all()}
    metrics = {"problems": float(len(counts))}
    if known:
        values_PM = np.stack(list(known.values()), axis=1)
        ends = zip(np.nanmean(values_PM, axis=0), *_intervals(values_PM), strict=True)
        for name, (mean, low, high) in zip(known, ends, strict=True):
            metrics |= {name: float(mean), name + LOW: float(low), name + HIGH: float(high)}
    for k in ks:
        if skipped := sum(problem.scored < k for problem in counts):
            metrics[f"skipped@{k}"] = float(skipped)
    if attempts := sum(problem.attempts for problem in counts):
        metrics["truncated_frac"] = sum(problem.truncated for problem in counts) / attempts
        metrics["failed_frac"] = sum(problem.failed for problem in counts) / attempts
        metrics["response_len_mean"] = sum(problem.tokens for problem in counts) / attempts
    if tokens := sum(problem.tokens for problem in counts):
        metrics["entropy"] = sum(problem.nats for problem in counts) / tokens
    if scored := sum(problem.scored for problem in counts):
        metrics["distinct_frac"] = sum(len(problem.votes) for problem in counts) / scored
    return metrics


def _intervals(values_PM: Floats) -> tuple[Floats, Floats]:
    """[M] lower and [M] upper ends of the percentile bootstrap intervals of the means over problems.

    The same problems are drawn for every metric. NaN counts as absent.
    """
    problems = len(values_PM)
    draws_RP = np.random.default_rng(0).multinomial(problems, np.full(problems, 1 / problems), size=_RESAMPLES)
    drawn_RP, known_PM = draws_RP.astype(float), ~np.isnan(values_PM)
    with np.errstate(invalid="ignore"):  # a draw without any problem that has the metric is none
        means_RM = drawn_RP @ np.where(known_PM, values_PM, 0.0) / (drawn_RP @ known_PM)
    tail = (1 - _LEVEL) / 2
    low_M, high_M = np.nanquantile(means_RM, [tail, 1 - tail], axis=0)
    return low_M, high_M
