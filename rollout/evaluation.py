"""What held-out answers say: unbiased pass@k over all problems and per tag. A pure function of counts."""

from collections.abc import Sequence

from rollout.records import EvalCounts


def pass_at_k(scored: int, correct: int, k: int) -> float:
    """Probability that at least one of k answers is correct, estimated from c correct ones of n scored.

    1 − C(n−c, k) / C(n, k), the unbiased estimator of 2107.03374 (Eq. 1), as a product of k factors, which neither
    overflows nor cancels.
    """
    if not (1 <= k <= scored and 0 <= correct <= scored):
        raise ValueError(
            f"pass@k needs 1 <= k <= scored and 0 <= correct <= scored, got k={k}, scored={scored}, correct={correct}; "
            f"draw more answers per problem or use a smaller k"
        )
    if scored - correct < k:
        return 1.0
    all_wrong = 1.0
    for i in range(k):
        all_wrong *= (scored - correct - i) / (scored - i)
    return 1.0 - all_wrong


def summarize(counts: Sequence[EvalCounts], ks: Sequence[int]) -> dict[str, float]:
    """Metrics of one evaluation: of all problems (`pass@8`) and of each tag (`4 numbers/pass@8`).

    Besides pass@k (the mean over problems): `truncated_frac` and `failed_frac` of all attempts, and
    `response_len_mean` in tokens per attempt.

    Attempts without a verdict (`failed`) say nothing and are left out of n. A problem with fewer than k scored
    attempts has no unbiased pass@k and is left out of that mean; `skipped@k` counts such problems and appears only
    when there are any. A metric that no problem can give is absent.
    """
    metrics = _metrics(counts, ks)
    for tag in sorted({problem.tag for problem in counts if problem.tag}):
        of_tag = _metrics([problem for problem in counts if problem.tag == tag], ks)
        metrics |= {f"{tag}/{name}": value for name, value in of_tag.items()}
    return metrics


def forgetting(before: Sequence[EvalCounts], after: Sequence[EvalCounts]) -> float:
    """F = |solved before \\ solved after| / |solved before|: share of problems solved once that are not any more.

    A problem is solved when one of its answers is correct. 0 when nothing was solved before.
    """
    solved = {c.prompt_id for c in before if c.correct}
    still = {c.prompt_id for c in after if c.correct}
    return len(solved - still) / len(solved) if solved else 0.0


def _metrics(counts: Sequence[EvalCounts], ks: Sequence[int]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for k in ks:
        scored = [(c.attempts - c.failed, c.correct) for c in counts]
        values = [pass_at_k(n, correct, k) for n, correct in scored if n >= k]
        if values:
            metrics[f"pass@{k}"] = sum(values) / len(values)
        if len(values) < len(counts):
            metrics[f"skipped@{k}"] = float(len(counts) - len(values))
    if attempts := sum(c.attempts for c in counts):
        metrics["truncated_frac"] = sum(c.truncated for c in counts) / attempts
        metrics["failed_frac"] = sum(c.failed for c in counts) / attempts
        metrics["response_len_mean"] = sum(c.tokens for c in counts) / attempts
    return metrics
