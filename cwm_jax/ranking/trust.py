"""Whether a pretrained ranking can be trusted on a workload: a test against random draws.

A ranking that is wrong cannot be found out from what it chose itself: all of it scores high, and
nothing says that what scores low is faster. A few schedules drawn at random do.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cwm_jax.ranking.adaptation import AdaptationConfig
from cwm_jax.ranking.correlation import rank_correlation

DISTRUSTED = AdaptationConfig(
    slope=0.0, slope_strength=1e12, least_scale=0.1, noise=0.1, exploration=0.15
)
"""Adaptation without the pretrained ranking, on `Scores.actions` and `log_throughput`."""

LEAST_DRAWN = 4
"""Fewer draws than this do not tell; rounds of less than twice as many hold none."""

_MARGIN = 1.25
"""In the first rounds that `tools/results/search` and `search-zen4` hold, good choices were 2.7
to 10 times as fast as what Ansor draws before it has learned."""

_LEAST_AGREEMENT = 0.5
"""Of eight measurements, one wrong order in ten agrees as well by chance; its choices are put to
the test in turn."""

_NEARLY = 0.25
"""Eight measurements do not tell rankings apart whose agreements differ by less."""

_FLOOR = 0.02


def earns_trust(chosen: Sequence[float], drawn: Sequence[float]) -> bool:
    """Tells whether what a ranking chose is faster than what was drawn at random.

    Args:
        chosen: Latencies in seconds; infinity for failures, which count as the slowest success.
        drawn: Likewise, of random draws.

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
    """Returns which of several rankings orders measurements best; None where none does well.

    Of those that do it nearly as well as the best, it is the first.

    Args:
        scores: Of the measured candidates by each ranking, higher is faster; rankings for likelier
            devices first.
        latencies: In seconds; infinity for failures.
    """
    measured = np.array(latencies, np.float64)
    agreements = [rank_correlation(score, measured) for score in scores]
    # Not a number where a ranking tells nothing apart.
    good = {at: found for at, found in enumerate(agreements) if found >= _LEAST_AGREEMENT}
    best = max(good.values(), default=math.nan)
    return next((at for at, found in good.items() if found >= best - _NEARLY), None)


def log_throughput(throughput: Float[np.ndarray, "candidate"]) -> Float[np.ndarray, "candidate"]:
    """Returns the logarithm of normalised throughputs, bounded below.

    What is drawn at random spans orders of magnitude, of which throughput itself shows the
    uppermost only.

    Args:
        throughput: Best latency over each latency; 0 for failures.
    """
    return np.log(np.maximum(throughput, _FLOOR))
