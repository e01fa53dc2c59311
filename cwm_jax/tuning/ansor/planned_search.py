"""`PlannedSearch` as 0.1.0 documented it; use `cwm_jax.tune` or `cwm_jax.tuning.loop` instead."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cwm_jax.records.record import Record
from cwm_jax.search.planner import PlannerConfig
from cwm_jax.search.rounds import Clock, PlannerSource, Schedule
from cwm_jax.tuning.ansor.sketch import SketchSpace
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tuning.loop import RankedSearch
from cwm_jax.tvm_bridge.ansor.graphs import first_error, latency_of


class PlannedRound(NamedTuple):
    """Inputs and results of a round, its times in seconds, and what was planned."""

    inputs: list[Any]
    results: list[Any]
    model_seconds: float
    measure_seconds: float
    imagined: int
    proposed: int
    rejected: int


class PlannedSearch:
    """Plans the search of one task, and measures by a function of the caller's.

    Args:
        tvm: A TVM with Ansor.
        task: `auto_scheduler.SearchTask`.
        model: `WorldModelCostModel`, which ranks, and learns from what is measured.
        measure: Builds and runs `MeasureInput`s.
        seed: Seed of all randomness.
        config: Settings of the planner.
    """

    def __init__(
        self,
        tvm: Any,
        task: Any,
        model: Any,
        measure: Callable[[Sequence[Any]], Sequence[Any]],
        seed: int,
        config: PlannerConfig | None = None,
    ) -> None:
        graph, clock, planner = model.graph(task), Clock(), config or PlannerConfig()
        self.space = SketchSpace(tvm, task, seed, planner.population)

        def learn(inputs: Mapping[Schedule, Any], results: Sequence[Any]) -> None:
            model.update(list(inputs.values()), results)

        self._trials = _Trials(measure)
        self._source = PlannerSource(
            graph, self.space, model.online, clock, clock.around(learn), seed, planner
        )
        self._search = RankedSearch(
            graph, self._source, self._trials, model.online, clock, Interrupt()
        )

    def remember(self, inputs: Sequence[Any]) -> None:
        """Takes in what an earlier run measured: it becomes a parent, and is not measured again."""
        if inputs:
            self._source.remember(self.space.schedules([item.state for item in inputs]))

    def round(self, size: int) -> PlannedRound:
        """Plans, checks, and measures up to `size` new candidates."""
        found = self._search.round(size)
        return PlannedRound(
            *self._trials.last,
            found.model_seconds,
            found.measure_seconds,
            found.imagined,
            found.proposed,
            found.rejected,
        )


class _Trials:
    """Measures by a function, and keeps the last round only."""

    def __init__(self, measure: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        self._measure = measure
        self.last: tuple[list[Any], list[Any]] = ([], [])

    def measure(self, candidates: Sequence[Any]) -> Sequence[Any]:
        return self._measure(candidates)

    def keep(self, candidates: Mapping[Schedule, Any], results: Sequence[Any]) -> None:
        self.last = (list(candidates.values()), list(results))

    def latencies(self, results: Sequence[Any]) -> tuple[float, ...]:
        return tuple(latency_of(result) for result in results)

    def first_error(self, results: Sequence[Any]) -> str:
        return first_error(results)

    def load(self, records: Sequence[Record]) -> Mapping[Schedule, Any]:
        raise NotImplementedError("a planned search keeps no records")
