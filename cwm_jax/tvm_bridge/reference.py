"""The latency of a reference program tells whether the machine was quiet.

TVM's worker threads spin: a second busy process on the same cores makes latencies wrong by
several times, and the reference's with them.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

_AGREEING_ATTEMPTS = 3
_SINGLE = 2.5


@dataclasses.dataclass(frozen=True)
class ReferenceRun:
    """The reference around one attempt at a batch of candidates.

    Attributes:
        time: Seconds since the epoch.
        level: Expected latency in seconds.
        latencies: Of the reference before, between and after the candidates, in seconds.
        accepted: Whether the batch counts.
        moved: Whether it counts because the machine has settled at another level.
    """

    time: float
    level: float
    latencies: tuple[float, ...]
    accepted: bool
    moved: bool = False


def reference_level(history: Sequence[ReferenceRun], window: int) -> float | None:
    """Returns the expected latency in seconds, None before the first quiet run.

    Args:
        history: Runs in the order of time.
        window: The level is the median of about so many latencies of the latest quiet runs.
    """
    quiet: list[float] = []
    for run in reversed(history):
        if run.accepted:
            quiet.extend(run.latencies)
            if run.moved or len(quiet) >= window:
                break
    return statistics.median(quiet) if quiet else None


def judge_reference(
    history: Sequence[ReferenceRun],
    latencies: tuple[float, ...],
    *,
    tolerance: float,
    window: int,
    time: float,
) -> ReferenceRun:
    """Compares a run with the level, or with itself where the level is unknown or has moved.

    A machine may settle at another speed, another day or under another host's load: three
    attempts in a row that agree with each other set a new level.

    Args:
        history: Earlier runs.
        latencies: Of this run in seconds; infinity where the reference failed.
        tolerance: Largest relative distance of the run's median from the level; a single
            latency may be `_SINGLE` times as far off.
        window: As for `reference_level`.
        time: Seconds since the epoch.
    """

    def near(expected: float, values: Sequence[float]) -> bool:
        apart = [abs(value / expected - 1) for value in (statistics.median(values), *values)]
        return apart[0] <= tolerance and max(apart) <= _SINGLE * tolerance

    def judged(level: float, *, accepted: bool, moved: bool = False) -> ReferenceRun:
        return ReferenceRun(time, level, latencies, accepted, moved)

    middle = statistics.median(latencies)
    steady = math.isfinite(middle) and near(middle, latencies)
    level = reference_level(history, window)
    if level is None:
        return judged(middle, accepted=steady, moved=steady)
    if near(level, latencies):
        return judged(level, accepted=True)
    last = history[1 - _AGREEING_ATTEMPTS :]
    refused = len(last) == _AGREEING_ATTEMPTS - 1 and not any(run.accepted for run in last)
    if steady and refused and all(near(middle, run.latencies) for run in last):
        return judged(middle, accepted=True, moved=True)
    return judged(level, accepted=False)
