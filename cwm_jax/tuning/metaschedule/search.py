"""A search by MetaSchedule: its folder, its cost model, and where its candidates come from."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.record import Record, latency_of_costs
from cwm_jax.search.trace_planner import TracePlannerConfig
from cwm_jax.tuning.config import TuningConfig
from cwm_jax.tuning.engine import Schedule, Task, TaskSearch
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tuning.measurement import (
    check_reference,
    measure_config,
    measure_once,
    reference_path,
    search_measurer,
)
from cwm_jax.tuning.metaschedule.cost_models import TimedModel, create_cost_model
from cwm_jax.tuning.metaschedule.measure import MetaScheduleDevice
from cwm_jax.tuning.metaschedule.sources import Evolution, Imagination, Offers, Sampler
from cwm_jax.tuning.metaschedule.work_dir import SearchedModule, SearchFolder
from cwm_jax.tuning.rounds import Proposal, RankedSearch
from cwm_jax.tvm_bridge.metaschedule.graphs import read_graph, warn_of_search
from cwm_jax.tvm_bridge.metaschedule.traces import record_of_result, steps_of_candidates

POPULATION = 512
"""Schedules of a generation, as MetaSchedule has it."""
RUN_TIMEOUT = 30
"""Seconds that one candidate may run, as MetaSchedule has it."""
_OFFERED = 4
"""Candidates that are offered for each one that the world model chooses to measure."""
_POOL = 512
"""Offered candidates that are kept for later rounds: none is offered twice."""

Measure = Callable[[Sequence[Any]], list[Any]]
"""`MeasureCandidate`s -> the `RunnerResult` of each."""


class MetaScheduleSession:
    """A search's folder, cost model and measuring (`cwm_jax.tuning.engine.Session`).

    Args:
        tvm: A TVM with MetaSchedule.
        tasks: What is searched.
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
        self._graphs = [read_graph(tvm, task.handle, task.workload_key) for task in tasks]
        self._folder = SearchFolder(tvm, folder)
        searched = [
            SearchedModule(task.handle, graph)
            for task, graph in zip(tasks, self._graphs, strict=True)
        ]
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
        module, graph, earlier = self._tasks[task].handle, self._graphs[task], self.earlier[task]
        source = ModuleSource(
            self._tvm, module, graph, self._target, self._config, self._folder, self.timed, earlier
        )
        trials = _FolderTrials(
            graph, self._target, self._folder, module, self._measure, self._records[task]
        )
        online, clock = self.timed.online, self.timed.clock
        return RankedSearch(graph, source, trials, online, clock, self._interrupt)


class ModuleSource:
    """The candidates of one module: offered by TVM's evolution or the planner, kept in a pool.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        graph: Its compute graph.
        target: TVM target.
        config: Settings.
        folder: What is measured.
        timed: The cost model.
        earlier: Measurements of the module that the folder holds already.
    """

    checked_per_draw = 1

    def __init__(
        self,
        tvm: Any,
        module: Any,
        graph: ComputeGraph,
        target: Any,
        config: TuningConfig,
        folder: SearchFolder,
        timed: TimedModel,
        earlier: Sequence[Record],
    ) -> None:
        self._tvm, self._graph, self._timed = tvm, graph, timed
        self._known = {record.steps for record in earlier}
        self._pool: dict[Schedule, Any] = {}
        self._fresh: dict[Schedule, Any] = {}
        self._workload = folder.database.commit_workload(module)
        offered = config.round_size * (_OFFERED if timed.online else 1)
        seed = config.seed + 1 + 1000 * len(earlier)
        population = config.population or POPULATION
        self._sampler = Sampler(tvm, module, target, seed) if timed.online else None
        if config.search == "planner":
            if timed.online is None or self._sampler is None:
                raise ValueError("the planner needs the world model")
            self._offers: Offers = Imagination(
                tvm,
                module,
                graph,
                timed.online,
                timed.clock,
                self._sampler,
                offered,
                seed,
                TracePlannerConfig(population=population),
            )
        else:
            self._offers = Evolution(
                tvm,
                module,
                graph,
                target,
                folder.database,
                timed.model,
                # TVM counts what is measured, but cuts what it offers by its own round.
                trials=config.trials - len(earlier) + offered - config.round_size,
                count=offered,
                population=population,
                seed=seed,
            )
        self._learn_earlier(folder)

    def _learn_earlier(self, folder: SearchFolder) -> None:
        """Lets the model learn from the trials of an earlier run."""
        runner = self._tvm.s_tir.meta_schedule.runner
        found = folder.database.get_all_tuning_records()
        known = [record for record in found if record.workload.same_as(self._workload)]
        if known:
            candidates = [record.as_measure_candidate() for record in known]
            results = [
                runner.RunnerResult(seconds, None)
                if latency_of_costs(seconds := [float(value) for value in record.run_secs or ()])
                < math.inf
                else runner.RunnerResult(None, "failed before")
                for record in known
            ]
            self._timed.model.update(self._offers.context, candidates, results)

    def begin(self) -> None:
        """Does nothing: what is offered is sampled when it is asked for."""

    def sample(self) -> Sequence[Schedule]:
        """Has TVM draw candidates at random."""
        assert self._sampler is not None
        sampled = self._sampler.draw()
        steps = steps_of_candidates(self._tvm, sampled, self._graph)
        pairs = zip(steps, sampled, strict=True)
        self._fresh = {steps: found for steps, found in pairs if steps not in self._known}
        return list(self._fresh)

    def shuffled(self, sampled: Sequence[Schedule], count: int) -> Sequence[int]:
        """Returns the first ones: TVM has drawn them in a random order."""
        return range(len(sampled))[:count]

    def accept(self, schedules: Sequence[Schedule], count: int) -> Mapping[Schedule, Any]:
        """Returns sampled candidates; all of them passed TVM's postprocessors."""
        return {schedule: self._fresh[schedule] for schedule in schedules[:count]}

    def propose(self, count: int, drawn: Mapping[Schedule, Any]) -> Proposal:
        """Returns what is offered now, and what was left of earlier offers."""
        before = self._timed.predicted() + self._offers.imagined
        for schedule, candidate in self._offers.offer(self._known).items():
            self._pool.setdefault(schedule, candidate)
        for schedule in drawn:
            self._pool.pop(schedule, None)
        predicted = self._timed.predicted() + self._offers.imagined - before
        return Proposal(dict(self._pool), None, {"predicted": predicted})

    def learn(
        self, candidates: Mapping[Schedule, Any], results: Sequence[Any], chosen: int
    ) -> None:
        """Corrects the ranking, and takes the measured ones out of the pool."""
        for schedule in candidates:
            self._pool.pop(schedule, None)
        kept = _POOL if self._timed.online else 0
        self._pool = dict(list(self._pool.items())[len(self._pool) - kept :]) if kept else {}
        found = list(candidates.values())
        self._offers.learn(found, results)
        update = self._timed.clock.around(self._timed.model.update)
        update(self._offers.context, found, results)
        self._known.update(candidates)

    def close(self) -> None:
        """Tells TVM that the search is over."""
        self._offers.close()
        if self._sampler is not None:
            self._sampler.close()


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
        return tuple(
            record_of_result(self._graph, self._target, (), result).latency for result in results
        )

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
