"""A search by MetaSchedule: its folder, its cost model, and where its candidates come from."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.record import Record, latency_of_costs
from cwm_jax.search.rounds import Schedule
from cwm_jax.search.trace_planner import TracePlannerConfig
from cwm_jax.tuning.engine import Task, TaskSearch
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tuning.loop import RankedSearch
from cwm_jax.tuning.measurement import (
    TuningConfig,
    check_reference,
    measure_config,
    measure_once,
    reference_path,
    search_measurer,
)
from cwm_jax.tuning.metaschedule.candidates import Evolution
from cwm_jax.tuning.metaschedule.cost_models import create_cost_model
from cwm_jax.tuning.metaschedule.measure import MetaScheduleDevice
from cwm_jax.tuning.metaschedule.work_dir import SearchedModule, SearchFolder
from cwm_jax.tvm_bridge.metaschedule.graphs import warn_of_search
from cwm_jax.tvm_bridge.metaschedule.planning import (
    OFFERED,
    POPULATION,
    Imagination,
    Offers,
    PooledSource,
    Sampler,
    learn_recorded,
)
from cwm_jax.tvm_bridge.metaschedule.traces import record_of_result, seconds_of_result

RUN_TIMEOUT = 30
"""Seconds that one candidate may run, as MetaSchedule has it."""

Measure = Callable[[Sequence[Any]], list[Any]]
"""`MeasureCandidate`s -> the `RunnerResult` of each."""


class MetaScheduleSession:
    """A search's folder, cost model and measuring (`cwm_jax.tuning.engine.Session`).

    Args:
        tvm: A TVM with MetaSchedule.
        tasks: The tasks to search.
        target: TVM target with `num-cores`.
        config: Settings.
        folder: Where the search lives; it goes on with the trials that it holds.
        scorer: Checkpoint of the world model, if that is the cost model.
        interrupt: Whether the user asked to stop.
        measure: Builds and runs candidates; by default on this machine or by the tracker.

    Attributes:
        timed: The cost model.

    Raises:
        CorpusError: The corpus to learn from cannot be read.
        RecordError: The folder holds another search, or was measured otherwise.
        TargetError: The reference program does not run on the target, or no remote device answers.
    """

    def __init__(
        self,
        tvm: Any,
        tasks: Sequence[Task],
        target: Any,
        config: TuningConfig,
        folder: Path,
        scorer: Scorer | None,
        *,
        interrupt: Interrupt,
        measure: Measure | None = None,
    ) -> None:
        self._tvm, self._tasks, self._target, self._config = tvm, tasks, target, config
        self._interrupt = interrupt
        self._folder = SearchFolder(tvm, folder)
        searched = [SearchedModule(task.handle, task.graph) for task in tasks]
        found = self._folder.earlier(searched, target)
        keys = [task.workload_key for task in tasks]
        self.earlier = [[r for r in found if r.workload_key == key] for key in keys]
        self._records = [list(records) for records in self.earlier]
        self.timed = create_cost_model(
            tvm,
            config.cost_model,
            scorer=scorer,
            round_size=config.round_size,
            seed=config.seed,
            adaptation=config.adaptation,
            interrupt=interrupt,
            pretrain=config.pretrain,
        )
        self._measure = measure or _search_measure(tvm, target, config, self._folder, interrupt)
        self._searches: dict[int, TaskSearch] = {}

    def search(self, task: int) -> TaskSearch:
        """Begins, or goes on with, the search of a module."""
        if task not in self._searches:
            self._searches[task] = self._begin(task)
        return self._searches[task]

    def records(self, task: int) -> Sequence[Record]:
        """Returns the records of a module."""
        return self._records[task]

    def give_up(self, task: int, error: Exception) -> None:
        """Warns that TVM cannot search a module, so that the others are."""
        warn_of_search(self._tasks[task].workload_key, error)

    def close(self) -> None:
        """Tells TVM that the searches are over."""
        for search in self._searches.values():
            search.close()

    def _begin(self, task: int) -> TaskSearch:
        module, graph = self._tasks[task].handle, self._tasks[task].graph
        source = self._source(module, graph, self.earlier[task])
        trials = _FolderTrials(
            graph, self._target, self._folder, module, self._measure, self._records[task]
        )
        online, clock = self.timed.online, self.timed.clock
        return RankedSearch(graph, source, trials, online, clock, self._interrupt)

    def _source(self, module: Any, graph: ComputeGraph, earlier: Sequence[Record]) -> PooledSource:
        """Returns where the candidates of a module come from, with what an earlier run measured."""
        tvm, config, timed = self._tvm, self._config, self.timed
        database = self._folder.database
        offered = config.round_size * (OFFERED if timed.online else 1)
        # Another seed than the first run's: the same samples would be drawn and skipped.
        seed = config.seed + 1 + 1000 * len(earlier)
        population = config.population or POPULATION
        workload = database.commit_workload(module)
        sampler = Sampler(tvm, module, self._target, seed) if timed.online else None
        if config.search == "planner":
            if timed.online is None or sampler is None:
                raise ValueError("the planner needs the world model")
            planner = TracePlannerConfig(population=population)
            offers: Offers = Imagination(
                tvm, module, graph, timed.online, timed.clock, sampler, offered, seed, planner
            )
        else:
            offers = Evolution(
                tvm,
                module,
                graph,
                self._target,
                database,
                timed.model,
                # TVM counts what is measured, but cuts what it offers by its own round.
                trials=config.trials - len(earlier) + offered - config.round_size,
                count=offered,
                population=population,
                seed=seed,
            )
        known = {record.steps for record in earlier}
        update = timed.model.update
        source = PooledSource(
            tvm, graph, offers, sampler, timed.clock, update, timed.predicted, known
        )
        learn_recorded(tvm, database, workload, partial(update, offers.context))
        return source


class _FolderTrials:
    """Measures the candidates of a module and appends them to the folder of a search."""

    def __init__(
        self,
        graph: ComputeGraph,
        target: Any,
        folder: SearchFolder,
        module: Any,
        measure: Measure,
        records: list[Record],
    ) -> None:
        self._graph, self._target, self._folder = graph, target, folder
        self._workload = folder.database.commit_workload(module)
        self._measure, self._records = measure, records

    def measure(self, candidates: Sequence[Any]) -> Sequence[Any]:
        return self._measure(candidates)

    def keep(self, candidates: Mapping[Schedule, Any], results: Sequence[Any]) -> None:
        records = [
            record_of_result(self._graph, self._target, schedule, result)
            for schedule, result in zip(candidates, results, strict=True)
        ]
        self._folder.append(self._workload, self._target, list(candidates.values()), records)
        self._records.extend(records)

    def latencies(self, results: Sequence[Any]) -> tuple[float, ...]:
        return tuple(latency_of_costs(seconds_of_result(result)) for result in results)

    def first_error(self, results: Sequence[Any]) -> str:
        errors = (str(result.error_msg).strip() for result in results if result.error_msg)
        return next((error.splitlines()[-1] for error in errors if error), "")

    def load(self, records: Sequence[Record]) -> Mapping[Schedule, Any]:
        return {record.steps: self._folder.candidate(record) for record in records}


def _search_measure(
    tvm: Any, target: Any, config: TuningConfig, folder: SearchFolder, interrupt: Interrupt
) -> Measure:
    reference = reference_path(folder.records)
    remote = config.tracker is not None
    check_reference(config, folder.records, reference, target, remote=remote)
    timeout = config.run_timeout or RUN_TIMEOUT
    measured = measure_config(config, build_timeout=config.build_timeout, run_timeout=timeout)
    sleep = interrupt.guard(time.sleep)
    device = MetaScheduleDevice(tvm, target, measured, config.tracker, sleep)
    if config.reference_every is None:
        return partial(measure_once, device)
    return search_measurer(device, measured, reference, interrupt).measure
