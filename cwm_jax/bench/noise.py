"""What measurement noise allows: a perfect model would be judged by noisy latencies too."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from cwm_jax.ranking.metrics import RankingMetrics, mean_metrics, rank_metrics
from cwm_jax.records.record import Record

QUANTILES = (0.05, 0.2, 0.5, 0.8, 0.95)


def remeasured_ratios(
    records: Sequence[Record], again: Sequence[Record]
) -> Float[np.ndarray, "pair"]:
    """Returns second over first latency of the programs that were measured twice.

    Args:
        records: First measurements.
        again: Second ones, of some of the programs, in any order.
    """
    first = {(r.workload_key, r.steps): r.latency for r in records if r.valid}
    pairs = [
        r.latency / first[r.workload_key, r.steps]
        for r in again
        if r.valid and (r.workload_key, r.steps) in first
    ]
    return np.array(pairs)


def noise_ceiling(
    latencies: Mapping[str, Float[np.ndarray, "candidate"]],
    ratios: Float[np.ndarray, "pair"],
    *,
    draws: int,
    seed: int,
) -> RankingMetrics:
    """Returns the metrics of an oracle: scores are the same latencies, measured once more.

    The measured latencies hold noise already, so the second measurement is drawn from the
    ratios around the first; their drift common to all, a change of clock, ranks nothing and is
    taken out.

    Args:
        latencies: Seconds, by workload.
        ratios: Second over first measurement.
        draws: Repeats to average over.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    centred = ratios / np.median(ratios)
    found = [
        rank_metrics(-measured * rng.choice(centred, len(measured)), measured)
        for _ in range(draws)
        for measured in latencies.values()
    ]
    return mean_metrics(found)
