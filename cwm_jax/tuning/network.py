"""Tuning all tasks of a network: the gradient scheduler gives rounds to the most promising one."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cwm_jax.errors import last_line
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.search.confirmation import best_record, confirm
from cwm_jax.search.task_scheduler import (
    GradientConfig,
    TaskProgress,
    network_latency,
    next_task,
)
from cwm_jax.tuning.engine import Engine, RoundResult, Session, Task
from cwm_jax.tuning.loop import open_session
from cwm_jax.tuning.measurement import TuningConfig


@dataclasses.dataclass(frozen=True)
class NetworkTuningResult:
    """Outcome of tuning a network.

    Attributes:
        trials: Candidates measured of each task, those of a resumed log included.
        best_latencies: Best latency of each task in seconds; infinity where none succeeded.
        network_latency: Their weighted sum in seconds.
        rounds: The rounds of this run; `best_latency` is the network's estimate.
        first_error: What TVM said of the first failed trial of this run, or "".
    """

    trials: tuple[int, ...]
    best_latencies: tuple[float, ...]
    network_latency: float
    rounds: tuple[RoundResult, ...]
    first_error: str


def round_size(wanted: int, trials: int, tasks: int) -> int:
    """Returns how many candidates a round measures so that every task gets one."""
    return max(1, min(wanted, trials // tasks))


def earlier_rounds(latencies: Sequence[float], size: int) -> tuple[float, ...]:
    """Returns the best latency after each round of `size` that earlier trials amount to."""
    ends = range(size, len(latencies) + size, size) if latencies else ()
    return tuple(min(latencies[:end]) for end in ends)


def tune_network(
    engine: Engine,
    tasks: Sequence[Task],
    config: TuningConfig,
    place: Path,
    *,
    scorer: Scorer | None = None,
    resume: bool = False,
    report: Callable[[RoundResult], None] = lambda _: None,
) -> NetworkTuningResult:
    """Tunes the tasks of a network; every measured round is kept.

    Args:
        engine: Samples, builds and runs.
        tasks: The tasks to tune, with how often each occurs.
        config: Settings; `trials` counts all tasks together, and a round is cut so that every
            task gets one.
        place: Log or folder of the search.
        scorer: Checkpoint of the world model, if that is the cost model.
        resume: Whether to go on with the trials of a log that is there.
        report: Called after every round, and at first with what an earlier run has measured.

    Raises:
        KeyboardInterrupt: On Ctrl-C; all finished rounds are kept.
        RecordError: The place holds another search, or was measured otherwise.
        TargetError: The settings ask for references on another device than this CPU.
    """
    size = round_size(config.round_size, config.trials - config.confirm, len(tasks))
    with open_session(
        engine, tasks, config, place, scorer, resume=resume, learn_every=size * len(tasks)
    ) as session:
        return tune_in_turns(session, tasks, config, size, report)


def tune_in_turns(
    session: Session,
    tasks: Sequence[Task],
    config: TuningConfig,
    size: int,
    report: Callable[[RoundResult], None] = lambda _: None,
) -> NetworkTuningResult:
    """Gives rounds to the task that promises most, then measures the best of each again.

    Args:
        session: Log or database of the tasks.
        tasks: The tasks to tune.
        config: Settings.
        size: Candidates a round.
        report: Called after every round, and at first with what an earlier run has measured.
    """
    earlier = [[record.latency for record in records] for records in session.earlier]
    trials = [len(latencies) for latencies in earlier]
    progress = [
        TaskProgress(task.weight, task.flop, task.kind, earlier_rounds(latencies, size))
        for task, latencies in zip(tasks, earlier, strict=True)
    ]
    rounds: list[RoundResult] = []

    def record(at: int, found: RoundResult, best: float, *, confirming: bool = False) -> None:
        trials[at] += len(found.latencies)
        progress[at] = dataclasses.replace(
            progress[at],
            history=(*progress[at].history, best),
            exhausted=len(found.latencies) == 0,
        )
        estimate = network_latency(progress)
        rounds.append(
            dataclasses.replace(
                found,
                task=at,
                trials=sum(trials),
                best_latency=estimate,
                confirming=confirming,
            )
        )
        report(rounds[-1])

    if any(trials):
        report(RoundResult(trials=sum(trials), best_latency=network_latency(progress)))
    confirmed = config.confirm // len(tasks)
    while (left := config.trials - confirmed * len(tasks) - sum(trials)) > 0:
        at = next_task(progress, GradientConfig())
        if at is None:
            break
        found = _round(session, at, min(size, left))
        record(at, found, min([progress[at].best, *found.latencies]))
    for at in range(len(tasks)):
        for found in _confirmed(session, at, min(confirmed, config.trials - sum(trials))):
            best = best_record(session.records(at))
            record(at, found, best.latency if best else math.inf, confirming=True)
    return NetworkTuningResult(
        trials=tuple(trials),
        best_latencies=tuple(task.best for task in progress),
        network_latency=network_latency(progress),
        rounds=tuple(rounds),
        first_error=next((done.first_error for done in rounds if done.first_error), ""),
    )


def _round(session: Session, task: int, count: int) -> RoundResult:
    """Searches a task; one that cannot be searched is exhausted, and the others go on."""
    try:
        return session.search(task).round(count)
    except Exception as error:  # whatever TVM meets in one task
        session.give_up(task, error)
        return RoundResult(first_error=last_line(error))


def _confirmed(session: Session, task: int, count: int) -> Iterator[RoundResult]:
    if count <= 0:
        return
    yield from confirm(
        lambda: session.records(task), lambda found: session.search(task).remeasure(found), count
    )
