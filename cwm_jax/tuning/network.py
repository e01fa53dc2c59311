"""Tuning all tasks of a network in turns, by whichever engine searches."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cwm_jax.records.record import Record
from cwm_jax.search.confirmation import best_record, confirm
from cwm_jax.search.task_scheduler import (
    GradientConfig,
    TaskProgress,
    network_latency,
    next_task,
)
from cwm_jax.tuning.loop import TaskRound


@dataclasses.dataclass(frozen=True)
class NetworkRound:
    """What one round did; times are wall-clock seconds.

    Attributes:
        task: Position of the task that was tuned.
        trials: Candidates measured so far, of all tasks.
        network_latency: Estimated latency of the network in seconds; infinity while a task has
            no valid program.
        search_seconds: Search without the model.
        model_seconds: In the cost model.
        measure_seconds: Building and running.
    """

    task: int
    trials: int
    network_latency: float
    search_seconds: float
    model_seconds: float
    measure_seconds: float


@dataclasses.dataclass(frozen=True)
class NetworkTuningResult:
    """Outcome of tuning a network.

    Attributes:
        trials: Candidates measured of each task, those of a resumed log included.
        best_latencies: Best latency of each task in seconds; infinity where none succeeded.
        network_latency: Their weighted sum in seconds.
        rounds: The rounds of this run.
        first_error: What TVM said of the first failed trial of this run, or "".
    """

    trials: tuple[int, ...]
    best_latencies: tuple[float, ...]
    network_latency: float
    rounds: tuple[NetworkRound, ...]
    first_error: str


class Confirming(NamedTuple):
    """How the best programs of a network's tasks are measured again.

    Attributes:
        trials: To spend on each task.
        measured: Task -> its records so far.
        again: Task and a record of each program -> what measuring them brought.
    """

    trials: int
    measured: Callable[[int], Sequence[Record]]
    again: Callable[[int, Sequence[Record]], TaskRound]


def round_size(wanted: int, trials: int, tasks: int) -> int:
    """Returns how many candidates a round measures so that every task gets one."""
    return max(1, min(wanted, trials // tasks))


def earlier_rounds(latencies: Sequence[float], size: int) -> tuple[float, ...]:
    """Best latency after each round of `size` that a task's earlier trials amount to."""
    ends = range(size, len(latencies) + size, size) if latencies else ()
    return tuple(min(latencies[:end]) for end in ends)


def tune_in_turns(
    progress: Sequence[TaskProgress],
    trials: Sequence[int],
    most: int,
    size: int,
    next_round: Callable[[int, int], TaskRound],
    confirming: Confirming,
    report: Callable[[NetworkRound], None] = lambda _: None,
) -> NetworkTuningResult:
    """Gives rounds to the task that promises most, then measures the best of each again.

    Args:
        progress: Of each task at the start.
        trials: Candidates of each task that are measured already.
        most: Candidates to measure in all, those included.
        size: Candidates a round.
        next_round: Task and number of candidates -> what a round of it measured.
        confirming: How the best are measured again.
        report: Called after every round.
    """
    progress, trials = list(progress), list(trials)
    rounds: list[NetworkRound] = []
    error = ""

    def note(at: int, found: TaskRound, best: float) -> None:
        nonlocal error
        error = error or found.first_error
        trials[at] += len(found.latencies)
        progress[at] = dataclasses.replace(
            progress[at],
            history=(*progress[at].history, best),
            exhausted=len(found.latencies) == 0,
        )
        rounds.append(NetworkRound(at, sum(trials), network_latency(progress), *found.seconds))
        report(rounds[-1])

    while (left := most - confirming.trials * len(progress) - sum(trials)) > 0:
        at = next_task(progress, GradientConfig())
        if at is None:
            break
        found = next_round(at, min(size, left))
        note(at, found, min([progress[at].best, *found.latencies]))
    for at in range(len(progress)):
        for found in _confirmed(at, confirming, most - sum(trials)):
            best = best_record(confirming.measured(at))
            note(at, found, best.latency if best else math.inf)
    return NetworkTuningResult(
        trials=tuple(trials),
        best_latencies=tuple(task.best for task in progress),
        network_latency=network_latency(progress),
        rounds=tuple(rounds),
        first_error=error,
    )


def _confirmed(at: int, confirming: Confirming, left: int) -> Iterator[TaskRound]:
    return confirm(
        lambda: confirming.measured(at),
        lambda records: confirming.again(at, records),
        min(confirming.trials, left),
    )
