"""Tests against random candidates whether a pretrained ranking can be trusted on a workload.

Candidates chosen by a wrong ranking cannot reveal that it is wrong: all of them score high. So a
few random candidates are measured, too.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cwm_jax.ranking.gaussian_process import AdaptationConfig
from cwm_jax.ranking.metrics import rank_correlation

DISTRUSTED = AdaptationConfig(
    slope=0.0, slope_strength=1e12, least_scale=0.1, noise=0.1, exploration=0.15
)
"""Adaptation without the pretrained ranking, on `Scores.actions` and `log_throughput`."""

LEAST_DRAWN = 4
"""Least number of random candidates to judge by; rounds of less than twice as many draw none."""

_MARGIN = 1.25
"""In the first rounds of Ansor's searches on Zen 3, 4 and 5 (`tools/results/search.runs.jsonl.xz`;
at commit 3848bed also `search-zen4`), good choices were 2.7 to 10 times as fast as random draws."""

_LEAST_AGREEMENT = 0.5
"""Rank correlation with the measurements below which a ranking is refuted. It is low because all
candidates that a wrong ranking chose may be slow, and hardly differ for a good one."""

_FLOOR = 0.02


def earns_trust(chosen: Sequence[float], drawn: Sequence[float]) -> bool:
    """Returns whether the candidates that a ranking chose are faster than random ones.

    Args:
        chosen: Latencies in seconds; infinity for failures, which count as the slowest success.
        drawn: Latencies of random candidates, in the same form.

    Returns:
        Whether the geometric mean of the chosen latencies is clearly lower; True as long as one
        side is empty or nothing succeeded.
    """
    latencies = np.array([*chosen, *drawn], np.float64)
    good = np.isfinite(latencies)
    if not chosen or not drawn or not good.any():
        return True
    logs = np.log(np.where(good, latencies, latencies[good].max()))
    return bool(logs[len(chosen) :].mean() - logs[: len(chosen)].mean() >= np.log(_MARGIN))


def most_agreeing(
    scores: Sequence[Float[np.ndarray, "candidate"]], latencies: Sequence[float]
) -> int | None:
    """Returns which of several rankings to try; None where the measurements refute all.

    A ranking is refuted where its rank correlation with the measurements is more than two standard
    errors below what is worth following. Of the others the first is returned that is within one
    standard error of the best. The error is that of n independent pairs, 1 / sqrt(n - 1) (Kendall &
    Gibbons 1990).

    Args:
        scores: Scores of the measured candidates by each ranking, higher is faster; rankings for
            likelier devices first.
        latencies: Latencies in seconds; infinity for failures.
    """
    measured = np.array(latencies, np.float64)
    agreements = [rank_correlation(score, measured) for score in scores]
    error = 1 / math.sqrt(max(len(measured) - 1, 1))
    least = _LEAST_AGREEMENT - 2 * error
    # Not a number where a ranking tells nothing apart.
    good = {at: found for at, found in enumerate(agreements) if found >= least}
    best = max(good.values(), default=math.nan)
    return next((at for at, found in good.items() if found >= best - error), None)


def log_throughput(throughput: Float[np.ndarray, "candidate"]) -> Float[np.ndarray, "candidate"]:
    """Returns the logarithm of normalised throughputs, bounded below.

    What is drawn at random spans orders of magnitude, of which throughput itself shows the
    uppermost only.

    Args:
        throughput: Best latency over each latency; 0 for failures.
    """
    return np.log(np.maximum(throughput, _FLOOR))
