"""The search of one task, whichever engine runs it: rounds until the trials are spent.

A round is written once: choose, measure, learn, keep (`RankedSearch`).
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cwm_jax.errors import CwmError, WorkloadError, last_line
from cwm_jax.ranking.online import OnlineRanker
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.record import Record
from cwm_jax.search.confirmation import best_record, confirm
from cwm_jax.search.rounds import Candidate, CandidateChooser, Clock, Schedule, Source
from cwm_jax.tuning.engine import Engine, RoundResult, Session, Task, TaskSearch
from cwm_jax.tuning.interrupts import Interrupt, SearchInterrupted, watch_interrupts
from cwm_jax.tuning.measurement import TuningConfig


@dataclasses.dataclass(frozen=True)
class TuningResult:
    """Outcome of the search of one task.

    Attributes:
        workload_key: Names the workload.
        target: Target as text.
        flop: Floating-point operations of one run, by TVM's count; 0 where unknown.
        latencies: Latency of every trial in order, in seconds, infinity for failures; those of a
            resumed search come first.
        rounds: The rounds of this run.
        best: The fastest program (`cwm_jax.search.confirmation.best_record`), None if no trial
            succeeded.
        first_error: What TVM said of the first failed trial of this run, or "".
        stopped_early: Whether the design space ran out before the trials did.
        schedule: The fastest program as text, "" if there is none.
        place: The log or folder that holds all trials.
    """

    workload_key: str
    target: str
    flop: float
    latencies: tuple[float, ...]
    rounds: tuple[RoundResult, ...]
    best: Record | None
    first_error: str
    stopped_early: bool
    schedule: str = ""
    place: Path = Path()

    @property
    def best_latency(self) -> float:
        """Returns the latency of the fastest program in seconds, the mean of its measurements."""
        return self.best.latency if self.best else math.inf

    @property
    def curve(self) -> tuple[float, ...]:
        """Returns the best latency in seconds after each trial; infinity before any succeeded."""
        best = math.inf
        found = []
        for latency in self.latencies:
            best = min(best, latency)
            found.append(best)
        return tuple(found)


@contextmanager
def open_session(
    engine: Engine,
    tasks: Sequence[Task],
    config: TuningConfig,
    place: Path,
    scorer: Scorer | None,
    *,
    resume: bool,
    learn_every: int,
) -> Iterator[Session]:
    """Opens an engine's session, and stops it in order on Ctrl-C; arguments as `Engine.session`.

    Raises:
        RecordError: The place holds another search, or was measured otherwise.
        TargetError: The settings ask for references on another device than this CPU.
    """
    with (
        watch_interrupts() as interrupt,
        engine.session(
            tasks,
            config,
            place,
            scorer,
            resume=resume,
            interrupt=interrupt,
            learn_every=learn_every,
        ) as session,
    ):
        yield session


def tune_task(
    engine: Engine,
    task: Task,
    config: TuningConfig,
    place: Path,
    *,
    scorer: Scorer | None = None,
    resume: bool = False,
    report: Callable[[RoundResult], None] = lambda _: None,
) -> TuningResult:
    """Searches for a fast program of a task; every measured round is kept.

    Args:
        engine: Samples, builds and runs.
        task: The task to search.
        config: Settings.
        place: Log or folder of the search.
        scorer: Checkpoint of the world model, if that is the cost model.
        resume: Whether to go on with the trials of a log that is there.
        report: Called after every round, and at first with what an earlier run has measured.

    Raises:
        KeyboardInterrupt: On Ctrl-C; all finished rounds are kept.
        RecordError: The place holds another search, or was measured otherwise.
        TargetError: The settings ask for references on another device than this CPU.
        WorkloadError: The engine finds no design space for the task.
    """
    with open_session(
        engine, [task], config, place, scorer, resume=resume, learn_every=config.round_size
    ) as session:
        try:
            search = session.search(0)
        except (CwmError, OSError):
            raise
        except Exception as error:  # TVM raises what its rules meet
            raise WorkloadError(
                f"{task.description}: TVM cannot tune it ({last_line(error)})"
            ) from error
        earlier = [record.latency for record in session.earlier[0]]
        rounds, stopped_early = search_in_rounds(
            search, lambda: session.records(0), config, earlier, report
        )
        best = best_record(session.records(0))
    latencies = (*earlier, *(latency for done in rounds for latency in done.latencies))
    return TuningResult(
        workload_key=task.workload_key,
        target=engine.target,
        flop=task.flop,
        latencies=latencies,
        rounds=tuple(rounds),
        best=best,
        first_error=next((done.first_error for done in rounds if done.first_error), ""),
        stopped_early=stopped_early,
        schedule=engine.schedule_text(place, task, best) if best else "",
        place=place,
    )


def search_in_rounds(
    search: TaskSearch,
    records: Callable[[], Sequence[Record]],
    config: TuningConfig,
    earlier: Sequence[float],
    report: Callable[[RoundResult], None] = lambda _: None,
) -> tuple[list[RoundResult], bool]:
    """Runs rounds until the trials are spent, and measures the best programs again.

    Args:
        search: Search of the task.
        records: Returns all records of the task so far.
        config: Settings.
        earlier: Latencies in seconds of what an earlier run measured.
        report: Called after every round, and at first with what an earlier run has measured.

    Returns:
        The rounds, and whether the design space ran out before the trials did.
    """
    latencies = list(earlier)
    rounds: list[RoundResult] = []

    def record(found: RoundResult, *, confirming: bool) -> None:
        latencies.extend(found.latencies)
        rounds.append(
            dataclasses.replace(
                found,
                trials=len(latencies),
                best_latency=min(latencies),
                confirming=confirming,
            )
        )
        report(rounds[-1])

    if latencies:
        report(RoundResult(trials=len(latencies), best_latency=min(latencies)))
    stopped_early = False
    while (left := config.trials - config.confirm - len(latencies)) > 0:
        found = search.round(min(config.round_size, left))
        if not found.latencies:
            stopped_early = True
            break
        record(found, confirming=False)
    left = min(config.confirm, config.trials - len(latencies))
    for found in confirm(records, search.remeasure, left):
        record(found, confirming=True)
    return rounds, stopped_early


class Trials(Protocol):
    """What measures the candidates of a task, and keeps the results."""

    def measure(self, candidates: Sequence[Candidate]) -> Sequence[Any]:
        """Builds and runs candidates.

        Raises:
            KeyboardInterrupt: The user asked to stop.
        """
        ...

    def keep(self, candidates: Mapping[Schedule, Candidate], results: Sequence[Any]) -> None:
        """Appends measurements to the log or database."""
        ...

    def latencies(self, results: Sequence[Any]) -> tuple[float, ...]:
        """Returns seconds, infinity for failures."""
        ...

    def first_error(self, results: Sequence[Any]) -> str:
        """Returns what TVM said of the first failure, or ""."""
        ...

    def load(self, records: Sequence[Record]) -> Mapping[Schedule, Candidate]:
        """Returns recorded candidates, to be measured again."""
        ...


class RankedSearch:
    """The search of one task; a `cwm_jax.tuning.engine.TaskSearch`.

    Args:
        graph: The task.
        source: Where its candidates come from.
        trials: Measures candidates and keeps the results.
        online: The world model; None for another one, whose order is that of the source.
        clock: Times the cost model.
        interrupt: Whether the user asked to stop.
    """

    def __init__(
        self,
        graph: ComputeGraph,
        source: Source,
        trials: Trials,
        online: OnlineRanker | None,
        clock: Clock,
        interrupt: Interrupt,
    ) -> None:
        self.source, self._trials = source, trials
        self._chooser = CandidateChooser(graph, source, online, clock)
        self._clock, self._interrupt = clock, interrupt

    def round(self, count: int) -> RoundResult:
        """Searches for at most `count` new candidates, measures and keeps them."""
        self._clock.calls.clear()
        started = time.perf_counter()
        try:
            choice = self._chooser.next(count)
        except Exception:  # what TVM makes of an error in the cost model, or of a killed builder
            self._stop_if_requested()
            raise
        self._stop_if_requested()
        found = {**choice.chosen, **choice.drawn}
        measuring = time.perf_counter()
        results = _measured(self._trials, list(found.values()), self._interrupt)
        measured = time.perf_counter()
        if found:
            self.source.learn(found, results)
        searched = time.perf_counter() - started
        self._trials.keep(found, results)
        model = sum(end - start for start, end in self._clock.calls)
        return RoundResult(
            latencies=self._trials.latencies(results),
            search_seconds=searched - model - (measured - measuring),
            model_seconds=model,
            measure_seconds=measured - measuring,
            first_error=self._trials.first_error(results),
            **choice.counts,
        )

    def remeasure(self, records: Sequence[Record]) -> RoundResult:
        """Measures recorded candidates again, and keeps the results."""
        return remeasured(self._trials, records, self._interrupt)

    def close(self) -> None:
        """Ends the search."""
        self.source.close()

    def _stop_if_requested(self) -> None:
        if self._interrupt.requested:
            raise KeyboardInterrupt


def remeasured(trials: Trials, records: Sequence[Record], interrupt: Interrupt) -> RoundResult:
    """Measures recorded candidates again, and keeps the results.

    Args:
        trials: Measures candidates and keeps the results.
        records: One record of each candidate.
        interrupt: Whether the user asked to stop.

    Raises:
        KeyboardInterrupt: The user asked to stop; nothing is kept.
    """
    started = time.perf_counter()
    found = trials.load(records)
    measuring = time.perf_counter()
    results = _measured(trials, list(found.values()), interrupt)
    seconds = time.perf_counter() - measuring
    trials.keep(found, results)
    return RoundResult(
        latencies=trials.latencies(results),
        search_seconds=measuring - started,
        measure_seconds=seconds,
        first_error=trials.first_error(results),
    )


def _measured(
    trials: Trials, candidates: Sequence[Candidate], interrupt: Interrupt
) -> Sequence[Any]:
    if not candidates:
        return []
    try:
        results = trials.measure(candidates)
    except SearchInterrupted:
        raise KeyboardInterrupt from None
    if interrupt.requested:  # the processes that measure were interrupted, too
        raise KeyboardInterrupt
    return results
