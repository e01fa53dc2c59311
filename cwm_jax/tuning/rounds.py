"""The round of a search, written once: choose, measure, learn, keep."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cwm_jax.clock import Clock
from cwm_jax.ranking.online import OnlineRanker
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.record import Record
from cwm_jax.search.rounds import Candidate, CandidateChooser, Schedule, Source
from cwm_jax.tuning.engine import RoundResult
from cwm_jax.tuning.interrupts import Interrupt, SearchInterrupted


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
        trials: What measures and keeps them.
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
        results = self._measure(list(found.values()))
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
        started = time.perf_counter()
        found = self._trials.load(records)
        measuring = time.perf_counter()
        results = self._measure(list(found.values()))
        seconds = time.perf_counter() - measuring
        self._trials.keep(found, results)
        return RoundResult(
            latencies=self._trials.latencies(results),
            search_seconds=measuring - started,
            measure_seconds=seconds,
            first_error=self._trials.first_error(results),
        )

    def close(self) -> None:
        """Ends the search."""
        self.source.close()

    def _measure(self, candidates: Sequence[Candidate]) -> Sequence[Any]:
        if not candidates:
            return []
        try:
            results = self._trials.measure(candidates)
        except SearchInterrupted:
            raise KeyboardInterrupt from None
        self._stop_if_requested()  # the processes that measure were interrupted, too
        return results

    def _stop_if_requested(self) -> None:
        if self._interrupt.requested:
            raise KeyboardInterrupt
