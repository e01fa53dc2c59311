"""Replay: recorded search histories measured again on paper, in the order a model would choose.

Nothing runs: a "measurement" looks the latency up. The candidates are those that the recorded
search chose to measure, so that a replay says how soon a model would have found what that
search found, not what a search led by the model would find.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from cwm_jax.ranking.gaussian_process import AdaptationConfig, adapted_score, fit_adaptation

Vector = Float[np.ndarray, "candidate"]
Matrix = Float[np.ndarray, "candidate feature"]


def first_best(latencies: Vector, trials: int) -> float:
    """Returns the best latency among the first `trials` of a recorded search."""
    return float(latencies[:trials].min())


def chosen_best(scores: Vector, latencies: Vector, trials: int) -> float:
    """Returns the best latency among the `trials` best-scored candidates, chosen all at once."""
    return float(latencies[np.argsort(-scores, kind="stable")[:trials]].min())


def adapted_best(
    scores: Vector,
    features: Matrix,
    latencies: Vector,
    trials: int,
    round_size: int,
    config: AdaptationConfig,
) -> float:
    """Returns the best latency among `trials` candidates chosen in rounds by a model that adapts.

    Args:
        scores: Pretrained scores.
        features: What adaptation regresses on (`cwm_jax.ranking.gaussian_process`).
        latencies: Seconds.
        trials: Measurements in all.
        round_size: Measurements a round.
        config: Settings of the adaptation.
    """
    measured = np.zeros(0, np.int64)
    while len(measured) < min(trials, len(latencies)):
        current = scores
        if len(measured):
            throughput = latencies[measured].min() / latencies[measured]
            fitted = fit_adaptation(scores[measured], features[measured], throughput, config)
            current = scores if fitted is None else adapted_score(fitted, scores, features)
        order = np.argsort(-current, kind="stable")
        fresh = order[~np.isin(order, measured)]
        measured = np.concatenate([measured, fresh[: min(round_size, trials - len(measured))]])
    return float(latencies[measured].min())


def replay_summary(
    scores: Mapping[str, Vector],
    features: Mapping[str, Matrix] | None,
    latencies: Mapping[str, Vector],
    *,
    trials: int = 64,
    round_size: int = 16,
) -> dict[str, float]:
    """Returns geometric means over the histories of at least twice as many trials.

    Args:
        scores: Scores by workload, in the order of the history.
        features: Features of each candidate for a model that adapts, by history.
        latencies: Latency of each candidate in seconds, by history.
        trials: Measurements that each workload may spend.
        round_size: Candidates a round, of a model that adapts.

    Returns:
        `replay_speedup`, the recorded search's latency over the model's after as many trials,
        `replay_of_best`, the best latency of the history over the model's, both also with
        `_adapted`, and `replay_histories`, how many there are.
    """
    long = [key for key in scores if len(latencies[key]) >= 2 * trials]
    if not long:
        return {}
    found = {"": {key: chosen_best(scores[key], latencies[key], trials) for key in long}}
    if features is not None:
        config = AdaptationConfig()
        found["_adapted"] = {
            key: adapted_best(
                scores[key], features[key], latencies[key], trials, round_size, config
            )
            for key in long
        }
    summary: dict[str, float] = {"replay_histories": len(long)}
    for suffix, best in found.items():
        ansor = [first_best(latencies[key], trials) / best[key] for key in long]
        whole = [float(latencies[key].min()) / best[key] for key in long]
        summary[f"replay_speedup{suffix}"] = _geometric_mean(ansor)
        summary[f"replay_of_best{suffix}"] = _geometric_mean(whole)
    return summary


def _geometric_mean(values: list[float]) -> float:
    return math.exp(float(np.mean(np.log(values))))
