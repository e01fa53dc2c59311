"""What finished searches say: speed-ups with confidence intervals, headroom, curves."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

_RESAMPLES = 2000
_INTERVAL = (0.025, 0.975)

Told = TypeVar("Told")


@dataclasses.dataclass(frozen=True)
class Found:
    """What one search had found after some trials.

    Attributes:
        workload: The tuned workload.
        variant: How it was searched.
        seed: Seed of the search.
        trials: Measurements until then.
        latency: Latency of the best program in seconds, measured again together with the others.
        round_seconds: Search and model time of a round, without measuring; median over rounds.
    """

    workload: str
    variant: str
    seed: int
    trials: int
    latency: float
    round_seconds: float


def geometric_mean(values: Sequence[float]) -> float:
    """Returns the geometric mean; NaN of no values."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def geometric_interval(by_workload: Sequence[Sequence[float]], seed: int) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of a geometric mean; workloads are resampled whole.

    Args:
        by_workload: Ratios of each workload's seeds.
        seed: Seed of the resampling.
    """
    if not by_workload:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    logs = [np.log(np.asarray(ratios)) for ratios in by_workload]
    means = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(len(logs), size=len(logs))
        means.append(np.concatenate([logs[at] for at in drawn]).mean())
    low, high = np.exp(np.quantile(means, _INTERVAL))
    return float(low), float(high)


def _pairs(
    by_search: Mapping[tuple[str, int, str], Told], variant: str, reference: str
) -> list[tuple[str, Told, Told]]:
    """Returns the workload, and what is known of both searches, of each pair.

    Args:
        by_search: Latencies by workload, seed and variant.
        variant: The first of each pair.
        reference: The second.
    """
    return [
        (workload, ours, by_search[workload, seed, reference])
        for (workload, seed, name), ours in by_search.items()
        if name == variant and (workload, seed, reference) in by_search
    ]


def compare(found: Sequence[Found], variant: str, reference: str, trials: int) -> dict[str, Any]:
    """Compares two variants after as many trials, seed by seed.

    Returns:
        `geomean` with its 95 % `interval`, `worst` (the smallest geometric mean of a workload
        over its seeds), `by_workload`, and `pairs`; ratios above 1 favour `variant`.
    """
    at = {(f.workload, f.seed, f.variant): f.latency for f in found if f.trials == trials}
    ratios: dict[str, list[float]] = defaultdict(list)
    for workload, ours, theirs in _pairs(dict(sorted(at.items())), variant, reference):
        ratios[workload].append(theirs / ours)
    by_workload = {workload: geometric_mean(values) for workload, values in ratios.items()}
    every = [ratio for values in ratios.values() for ratio in values]
    return {
        "geomean": geometric_mean(every),
        "interval": geometric_interval(list(ratios.values()), seed=0),
        "worst": min(by_workload.values(), default=math.nan),
        "by_workload": by_workload,
        "pairs": len(every),
    }


def captured_headroom(
    found: Sequence[Found],
    variant: str,
    reference: str,
    trials: int,
    optimum: Mapping[tuple[str, int], float],
) -> dict[str, Any]:
    """Returns the share of a long search's gain that `variant` reaches with a short one's trials.

    `log(short / ours) / log(short / long)`, both searches by `reference`; logarithms are summed
    over workloads and seeds, so that a workload with nothing to gain decides nothing.

    Args:
        found: All searches.
        variant: Whose headroom.
        reference: The rival.
        trials: Trials of the short searches.
        optimum: Latency of the long search in seconds, on the machine of the short ones, by
            their workload and seed.

    Returns:
        `captured`, `headroom` (geometric mean of short over long), `by_workload`, `workloads`.
    """
    at = {(f.workload, f.seed, f.variant): f.latency for f in found if f.trials == trials}
    gained: dict[str, float] = defaultdict(float)
    possible: dict[str, list[float]] = defaultdict(list)
    for workload, seed, name in sorted(at):
        short = at.get((workload, seed, reference))
        if name == variant and short is not None and (workload, seed) in optimum:
            gained[workload] += math.log(short / at[workload, seed, variant])
            possible[workload].append(math.log(short / optimum[workload, seed]))
    total = sum(sum(values) for values in possible.values())
    every = [math.exp(value) for values in possible.values() for value in values]
    return {
        "captured": sum(gained.values()) / total if total > 0 else math.nan,
        "headroom": geometric_mean(every),
        "by_workload": {
            workload: gained[workload] / sum(values) if sum(values) > 0 else math.nan
            for workload, values in possible.items()
        },
        "workloads": len(possible),
    }


def round_seconds_ratio(found: Sequence[Found], variant: str, reference: str) -> float:
    """Returns the median ratio of search and model seconds a round, `variant` over `reference`."""
    at = {(f.workload, f.seed, f.variant): f.round_seconds for f in found}
    ratios = [ours / theirs for _, ours, theirs in _pairs(at, variant, reference)]
    return statistics.median(ratios) if ratios else math.nan


def scored_ratio(curves: Sequence[Mapping[str, Any]], variant: str, reference: str) -> float | None:
    """Returns the median ratio of candidates scored per second, over the reference's.

    Args:
        curves: `workload`, `seed`, `variant` and `predicted_per_second` of each search.
        variant: The way to search that is compared.
        reference: The one that it is compared with.

    Returns:
        The ratio; None if no pair has both figures.
    """
    rates = {(c["workload"], c["seed"], c["variant"]): c["predicted_per_second"] for c in curves}
    pairs = _pairs(rates, variant, reference)
    ratios = [ours / theirs for _, ours, theirs in pairs if ours and theirs]
    return statistics.median(ratios) if ratios else None


class Pace(NamedTuple):
    """How soon searches have what others have at their end, pair by pair.

    Attributes:
        trials: After how many; infinity where never.
        times_as_long: Seconds of the other, measuring included, over its own; of pairs whose
            time is known, which that of a resumed search is not.
    """

    trials: list[float]
    times_as_long: list[float]


def pace(curves: Sequence[Mapping[str, Any]], variant: str, reference: str) -> Pace:
    """Compares pairs of searches of as many trials, by what they measured themselves.

    Args:
        curves: `workload`, `seed`, `variant`, `best` (None before the first that succeeded),
            `round_trials` and `round_ends` of each search.
        variant: The way to search that is compared.
        reference: The one that it is compared with.
    """
    by_search = {(curve["workload"], curve["seed"], curve["variant"]): curve for curve in curves}
    found = Pace([], [])
    for _, curve, other in _pairs(by_search, variant, reference):
        goal = other["best"][-1] or math.inf
        reached = (at for at, best in enumerate(curve["best"], 1) if best and best <= goal)
        found.trials.append(next(reached, math.inf))
        if not (_is_resumed(curve) or _is_resumed(other)):
            found.times_as_long.append(other["round_ends"][-1] / curve["round_ends"][-1])
    return found


def _is_resumed(curve: Mapping[str, Any]) -> bool:
    """Whether the first rounds are reported as one, larger than the others."""
    rounds = curve["round_trials"]
    return rounds[0] > max(np.diff(rounds), default=rounds[0])


def best_so_far(latencies: Sequence[float | None]) -> list[float]:
    """Returns the best latency after each trial; a failure is infinity, or None in a file."""
    best, curve = math.inf, []
    for latency in latencies:
        best = min(best, math.inf if latency is None else latency)
        curve.append(best)
    return curve


def round_seconds(rounds: Sequence[Mapping[str, float]]) -> float:
    """Seconds of a round in search and model: median over the rounds that searched."""
    return statistics.median(
        done["search_seconds"] + done["model_seconds"]
        for done in rounds
        if not done.get("confirming")
    )


def curve_of(result: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Returns how a search went.

    Args:
        result: JSON of `cwm tune`.
        scale: Factor of its latencies.

    Returns:
        The `best` latency in seconds after each trial, None before the first that succeeded; at
        the end of each round the trials, `round_trials`, and the seconds, `round_ends`; and
        `predicted_per_second` (None where the engine does not tell). Latencies have six
        digits: no measurement has more, and curves are most of what a benchmark's JSON holds.
    """
    best = [scale * latency for latency in best_so_far(result["latencies"])]
    return {
        "best": six_digits([latency if math.isfinite(latency) else None for latency in best]),
        **_clock(result),
        "predicted_per_second": _predicted_per_second(result["rounds"]),
    }


def six_digits(data: Any) -> Any:
    """Rounds every float in nested lists and dictionaries to six significant digits."""
    if isinstance(data, dict):
        return {name: six_digits(value) for name, value in data.items()}
    if isinstance(data, list):
        return [six_digits(value) for value in data]
    return float(f"{data:.6g}") if isinstance(data, float) else data


def _predicted_per_second(rounds: Sequence[Mapping[str, float]]) -> float | None:
    """Candidates scored per second in the model, learning included, once it has learned."""
    later = [done for done in rounds[1:] if done.get("predicted")]
    seconds = sum(done["model_seconds"] for done in later)
    return sum(done["predicted"] for done in later) / seconds if later else None


def _clock(result: Mapping[str, Any]) -> dict[str, list[float]]:
    phases = ("search_seconds", "model_seconds", "measure_seconds")
    seconds = np.cumsum([sum(done[phase] for phase in phases) for done in result["rounds"]])
    return {
        "round_trials": [done["trials"] for done in result["rounds"]],
        "round_ends": [round(float(end), 3) for end in seconds],
    }


def summarise(
    found: Sequence[Found],
    variants: Sequence[str],
    trials: Sequence[int],
    optimum: Mapping[tuple[str, int], float],
    rival: str,
) -> dict[str, Any]:
    """Compares each variant with the rival: speed-ups, headroom, time a round.

    Args:
        found: Outcomes of all searches.
        variants: Variants to compare.
        trials: After how many.
        optimum: As for `captured_headroom`.
        rival: The variant that they are compared with.
    """
    return {
        variant: {
            "speedup": {str(n): compare(found, variant, rival, n) for n in trials},
            "headroom": captured_headroom(found, variant, rival, max(trials), optimum),
            "round_seconds_ratio": round_seconds_ratio(found, variant, rival),
        }
        for variant in variants
    }


def headline(summary: Mapping[str, Any], variant: str, trials: int, rival: str) -> dict[str, float]:
    """Returns the figures of one variant that a table is headed by.

    Args:
        summary: Summary of all variants (`summarise`).
        variant: One of them.
        trials: After how many.
        rival: How the keys call what the variants are compared with.
    """
    speedup = summary[variant]["speedup"][str(trials)]
    return {
        f"geomean_vs_{rival}_{trials}": speedup["geomean"],
        f"worst_vs_{rival}_{trials}": speedup["worst"],
        "captured_headroom": summary[variant]["headroom"]["captured"],
        "round_seconds_ratio": summary[variant]["round_seconds_ratio"],
    }
