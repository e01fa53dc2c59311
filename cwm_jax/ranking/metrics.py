"""Ranking metrics of one workload and of several together."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float


def rank_correlation(
    scores: Float[np.ndarray, "candidate"], latencies: Float[np.ndarray, "candidate"]
) -> float:
    """Returns Spearman's rank correlation of score and throughput; NaN where either is constant.

    Args:
        scores: Higher is faster; at least one.
        latencies: Latencies in seconds; infinity for failures.
    """
    from scipy import stats  # a second, which few who score candidates need

    if (scores == scores[0]).all() or (latencies == latencies[0]).all():
        return math.nan
    return float(stats.spearmanr(scores, -latencies)[0])  # type: ignore[arg-type]


Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class RankingMetrics:
    """How well scores rank the candidates of one workload.

    Attributes:
        candidates: How many were ranked.
        top1: Best latency over the latency of the best-scored candidate, at most 1.
        top5: Best latency over the best latency among the five best-scored, at most 1.
        pairwise: Share of pairs of different latency that the scores order rightly; a tie in
            score counts half. NaN where no two latencies differ.
        spearman: Rank correlation of score and throughput. NaN where either is constant.
        spearman_fast: The same among the faster half: what tells good candidates apart, on which
            a search lives once it has left the slow ones behind.
    """

    candidates: int
    top1: float
    top5: float
    pairwise: float
    spearman: float
    spearman_fast: float


def rank_metrics(
    scores: Float[Array, "candidate"], latencies: Float[Array, "candidate"]
) -> RankingMetrics:
    """Compares scores (higher is better) with measured latencies in seconds.

    Raises:
        ValueError: No candidate, or not finite.
    """
    if len(scores) == 0 or not (np.isfinite(scores).all() and np.isfinite(latencies).all()):
        raise ValueError("expected at least one candidate, all scores and latencies finite")
    fast = latencies <= np.median(latencies)
    return RankingMetrics(
        candidates=len(scores),
        top1=float(latencies.min() / top_k_latency(scores, latencies, 1)),
        top5=float(latencies.min() / top_k_latency(scores, latencies, 5)),
        pairwise=pairwise_accuracy(scores, latencies),
        spearman=rank_correlation(scores, latencies),
        spearman_fast=rank_correlation(scores[fast], latencies[fast]),
    )


def top_k_latency(
    scores: Float[Array, "candidate"], latencies: Float[Array, "candidate"], k: int
) -> float:
    """Best latency among the `k` best-scored; candidates that tie share the places.

    With ties at the k-th place the expectation over a random choice among them is returned,
    so that a constant score is worth no more than chance.
    """
    order = np.argsort(-scores, kind="stable")
    cut = scores[order[min(k, len(scores)) - 1]]
    sure = latencies[scores > cut]
    tied = np.sort(latencies[scores == cut])
    places = min(k, len(scores)) - len(sure)
    best_sure = sure.min() if len(sure) else math.inf
    expected, remaining, pool = 0.0, 1.0, len(tied)
    for at, latency in enumerate(tied):
        # Probability that the fastest chosen tied candidate is this one.
        chosen = remaining * places / (pool - at) if pool - at > places else remaining
        expected += chosen * min(latency, best_sure)
        remaining -= chosen
        if remaining <= 0:
            break
    return float(expected)


def pairwise_accuracy(
    scores: Float[Array, "candidate"], latencies: Float[Array, "candidate"]
) -> float:
    """Share of pairs of different latency that are ordered rightly; NaN without such pairs."""
    faster = latencies[:, None] < latencies[None, :]
    pairs = int(faster.sum())
    if pairs == 0:
        return math.nan
    difference = scores[:, None] - scores[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0))[faster].sum() / pairs)


def mean_metrics(per_workload: Sequence[RankingMetrics]) -> RankingMetrics:
    """Unweighted means over workloads, NaNs left out; `candidates` is the sum."""

    def mean(values: list[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan

    return RankingMetrics(
        candidates=sum(metrics.candidates for metrics in per_workload),
        top1=mean([metrics.top1 for metrics in per_workload]),
        top5=mean([metrics.top5 for metrics in per_workload]),
        pairwise=mean([metrics.pairwise for metrics in per_workload]),
        spearman=mean([metrics.spearman for metrics in per_workload]),
        spearman_fast=mean([metrics.spearman_fast for metrics in per_workload]),
    )


def weighted_top_k(
    scores: Mapping[str, Array],
    latencies: Mapping[str, Array],
    weights: Mapping[str, float],
    k: int,
) -> float:
    """Top-k of a network as TenSet and TLP define it.

    `sum_i(weight_i * best_i) / sum_i(weight_i * best among the k highest-scored of i)`.

    Args:
        scores: Scores of each task's candidates.
        latencies: Their latencies in seconds.
        weights: How often each task occurs in the network.
        k: How many candidates would be measured.
    """
    best = sum(weights[key] * latencies[key].min() for key in scores)
    found = sum(weights[key] * top_k_latency(scores[key], latencies[key], k) for key in scores)
    return float(best / found)
