"""MetaSchedule (`tvm.s_tir.meta_schedule`) as an engine."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cwm_jax.errors import WorkloadError, described
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.record import Record
from cwm_jax.tuning.engine import Engine, NetworkModel, ScoringCalls, Task, pretend_latencies
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tuning.machine import Tracker
from cwm_jax.tuning.measurement import MeasureConfig, TuningConfig
from cwm_jax.tuning.metaschedule.candidates import sampling_context
from cwm_jax.tuning.metaschedule.collection import MetaScheduleCollector, ModuleTasks
from cwm_jax.tuning.metaschedule.measure import MetaScheduleDevice
from cwm_jax.tuning.metaschedule.networks import (
    check_network,
    compile_network,
    random_arguments,
    time_executable,
)
from cwm_jax.tuning.metaschedule.relax import extract_modules, load_relax_network
from cwm_jax.tuning.metaschedule.search import MetaScheduleSession
from cwm_jax.tuning.metaschedule.targets import create_module, resolve_target
from cwm_jax.tuning.metaschedule.work_dir import (
    SEARCH_RECORDS,
    line_of,
    search_records,
    tuning_record_of,
)
from cwm_jax.tvm_bridge.metaschedule.graphs import read_graph
from cwm_jax.tvm_bridge.metaschedule.tir import name_of_function
from cwm_jax.tvm_bridge.metaschedule.traces import CandidateReader, steps_of_candidates
from cwm_jax.tvm_bridge.runtime import use

_LOG_BASE = 1.618
_ROUND = 16
_LEARNED = 64
"""Candidates that models have learned from before their calls are timed."""


def load(target: str | None, *, remote: bool = False) -> "MetaScheduleEngine":
    """Loads a TVM that has MetaSchedule, for a target as text; None for this machine's CPU.

    Raises:
        TargetError: TVM does not know the target, or was built without it.
        TvmError: There is no such TVM, or programs cannot be built here.
    """
    tvm = use("metaschedule")
    return MetaScheduleEngine(tvm, resolve_target(tvm, target, remote=remote))


class MetaScheduleEngine(Engine):
    """MetaSchedule on one target.

    Args:
        tvm: A TVM with MetaSchedule.
        target: `tvm.target.Target` with `num-cores`.
    """

    def __init__(self, tvm: Any, target: Any) -> None:
        self._tvm, self._target = tvm, target
        self.target = str(target)

    def tasks(self, source: Any) -> list[Task]:
        """Returns the task of a workload, of TE tensors, or of an `IRModule` of one function."""
        tvm = self._tvm
        if isinstance(source, tvm.IRModule):
            return [self.task(source)]
        if isinstance(source, list):
            try:
                return [self.task(tvm.IRModule({"main": tvm.te.create_prim_func(source)}))]
            except Exception as error:  # TVM raises what it meets in the tensors
                raise WorkloadError(f"cannot be built ({described(error)})") from error
        return [self.task(create_module(tvm, source, self._target))]

    def task(self, module: Any, weight: int = 1) -> Task:
        """Returns a `tvm.IRModule` of one function as a task.

        Its graph is one of its key alone where the module cannot be read.
        """
        from cwm_jax.tvm_bridge.metaschedule.cost_model import workload_key

        key = workload_key(module)
        graph = read_graph(self._tvm, module, key)
        return Task(key, name_of_function(module), graph.flop, _kind(graph), graph, module, weight)

    @contextmanager
    def session(
        self,
        tasks: Sequence[Task],
        config: TuningConfig,
        place: Path,
        scorer: Scorer | None,
        *,
        resume: bool,
        interrupt: Interrupt,
        learn_every: int,
    ) -> Iterator[MetaScheduleSession]:
        """Opens the folder of a search, and goes on with the trials that it holds."""
        session = MetaScheduleSession(
            self._tvm, tasks, self._target, config, place, scorer, interrupt=interrupt
        )
        yield session
        session.close()

    def recorded(self, place: Path) -> list[Record]:
        """Returns all trials of a search."""
        return search_records(place)

    def records_file(self, place: Path) -> Path:
        """Returns the records in the folder of a search."""
        return place / SEARCH_RECORDS

    def candidate(self, place: Path, record: Record) -> Any:
        """Returns the `MeasureCandidate` of a record."""
        line = line_of(place, record)
        return tuning_record_of(self._tvm, place, line).as_measure_candidate()

    def identity(self, place: Path, record: Record) -> bytes:
        """Returns the line of the database that holds a record."""
        return line_of(place, record)

    def schedule_text(self, place: Path, task: Task, record: Record) -> str:
        """Returns the scheduled module as TVM prints it."""
        return self.candidate(place, record).sch.mod.script()

    def device(self, config: MeasureConfig) -> MetaScheduleDevice:
        """Returns MetaSchedule's builder and runner."""
        return MetaScheduleDevice(self._tvm, self._target, config)

    def collector(self, scorer: Scorer | None) -> MetaScheduleCollector:
        """Returns what draws and keeps MetaSchedule's candidates."""
        return MetaScheduleCollector(self._tvm, self._target, scorer)

    def corpus_tasks(self) -> ModuleTasks:
        """Returns what makes MetaSchedule's tasks."""
        return ModuleTasks(self._tvm, self._target)

    def scoring_calls(self, task: Task, scorer: Scorer, count: int) -> ScoringCalls:
        """Samples candidates as a search does: MetaSchedule asks `predict(context, candidates)`."""
        from cwm_jax.tvm_bridge.metaschedule.cost_model import WorldModelCostModel

        tvm, ms = self._tvm, self._tvm.s_tir.meta_schedule
        context = sampling_context(
            tvm,
            task.handle,
            self._target,
            ms.search_strategy.ReplayTrace(),
            ms.cost_model.RandomModel(),
            0,
            trials=_LEARNED + count,
            round_size=_LEARNED + count,
        )
        graph = task.graph
        drawn = list(context.generate_measure_candidates() or ())
        # What is drawn twice would be scored once by the world model, but twice by the rival.
        distinct = dict(zip(steps_of_candidates(tvm, drawn, graph), drawn, strict=True))
        schedules, found = list(distinct), list(distinct.values())
        learned, asked = found[:_LEARNED], slice(_LEARNED if len(found) > _LEARNED else 0, None)
        candidates = found[asked]
        results = [
            ms.runner.RunnerResult([latency], None) for latency in pretend_latencies(len(learned))
        ]
        rival = ms.cost_model.XGBModel(num_warmup_samples=_ROUND - 1)
        rival.update(context, learned, results)
        reader = CandidateReader(tvm)  # a search has one all along

        def prepare_ours(batch: int) -> Callable[[], Any]:
            # One that has scored candidates remembers them.
            model = WorldModelCostModel(scorer, reader=reader)
            model.update(context, learned, results)
            model.predict(context, learned[:1])  # fits what it has learned
            return partial(model.predict, context, candidates[:batch])

        return ScoringCalls(
            graph,
            schedules[asked],
            {
                "world-model": prepare_ours,
                "xgboost": lambda batch: partial(rival.predict, context, candidates[:batch]),
            },
        )

    def network(self, text: str, seed: int) -> NetworkModel:
        """Loads a network as Relax, with the modules that MetaSchedule tunes."""
        name, module = load_relax_network(self._tvm, text, self._target)
        found = extract_modules(self._tvm, module, self._target)
        return NetworkModel(name, [self.task(task, weight) for task, weight in found], module)

    def check_network(self, text: str, network: NetworkModel) -> None:
        """Compiles a network untuned."""
        check_network(self._tvm, text, network.handle, self._target)

    def compile(self, network: NetworkModel, place: Path) -> Any:
        """Returns the `relax.VMExecutable`."""
        return compile_network(self._tvm, network.handle, self._target, place)

    def time(
        self, network: NetworkModel, library: Any, repeats: int, seed: int, tracker: Tracker | None
    ) -> list[float]:
        """Runs a compiled network on random arguments."""
        arguments = random_arguments(network.handle, seed)
        return time_executable(self._tvm, library, self._target, arguments, repeats, tracker)


def _kind(graph: ComputeGraph) -> str:
    """The stages' axes and the magnitude of the work: what Ansor's similarity tag says."""
    axes = ["".join("r" if axis.reduction else "s" for axis in s.axes) for s in graph.stages]
    return f"{' '.join(filter(None, axes))} {int(math.log(graph.flop + 1, _LOG_BASE))}"
