"""Measurements that are repeated: commands timed in turn, and what noise allows a model.

A perfect model would be judged by noisy latencies too.
"""

import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
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
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    centred = ratios / np.median(ratios)
    found = [
        rank_metrics(-measured * rng.choice(centred, len(measured)), measured)
        for _ in range(draws)
        for measured in latencies.values()
    ]
    return mean_metrics(found)


def time_in_turn(
    commands: Mapping[str, Sequence[str]],
    rounds: int,
    report: Callable[[str, float], None] = lambda name, seconds: None,
) -> dict[str, list[float]]:
    """Runs commands in turn, so that a drift of the machine touches all of them.

    Args:
        commands: Commands by name; each prints `{"seconds": [...]}` as its last line.
        rounds: How often each of them is run.
        report: Called with what each run took.

    Returns:
        Medians in seconds of each run, by name.

    Raises:
        subprocess.CalledProcessError: A command failed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured = orjson.loads(done.stdout.splitlines()[-1])["seconds"]
            seconds[name].append(statistics.median(measured))
            report(name, seconds[name][-1])
    return seconds


def speedup(seconds: Mapping[str, Sequence[float]], ours: str, rival: str) -> dict[str, Any]:
    """Compares what `time_in_turn` returned of two commands.

    Args:
        seconds: Seconds by name, one entry a round.
        ours: Name of the one.
        rival: Name of the other.

    Returns:
        `speedup`, the rival's median over ours, and `pairs`, the ratio of each round.
    """
    return {
        "speedup": statistics.median(seconds[rival]) / statistics.median(seconds[ours]),
        "pairs": [a / b for a, b in zip(seconds[rival], seconds[ours], strict=True)],
    }
