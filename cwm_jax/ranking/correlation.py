"""How well scores order measurements."""

import math

import numpy as np
from jaxtyping import Float


def rank_correlation(
    scores: Float[np.ndarray, "candidate"], latencies: Float[np.ndarray, "candidate"]
) -> float:
    """Returns Spearman's rank correlation of score and throughput; NaN where either is constant.

    Args:
        scores: Higher is faster; at least one.
        latencies: In seconds; infinity for failures.
    """
    from scipy import stats  # a second, which few who score candidates need

    if (scores == scores[0]).all() or (latencies == latencies[0]).all():
        return math.nan
    return float(stats.spearmanr(scores, -latencies)[0])  # type: ignore[arg-type]
