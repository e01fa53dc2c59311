"""Ansor (`tvm.auto_scheduler`) as an engine."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cwm_jax.errors import WorkloadError
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Record
from cwm_jax.tuning.ansor.collection import AnsorCollector
from cwm_jax.tuning.ansor.cost_models import create_cost_model
from cwm_jax.tuning.ansor.measure import AnsorDevice
from cwm_jax.tuning.ansor.relay import (
    NetworkSource,
    compile_network,
    extract_tasks,
    load_network,
    random_inputs,
    time_network,
)
from cwm_jax.tuning.ansor.search import AnsorSession
from cwm_jax.tuning.ansor.sketch import sketch_policy
from cwm_jax.tuning.ansor.targets import resolve_target
from cwm_jax.tuning.ansor.tasks import AnsorTasks, create_task, why_not_tunable
from cwm_jax.tuning.engine import Engine, NetworkModel, ScoringCalls, Task, pretend_latencies
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tuning.machine import Tracker
from cwm_jax.tuning.measurement import MeasureConfig, TuningConfig
from cwm_jax.tvm_bridge.ansor.graphs import graph_of_task
from cwm_jax.tvm_bridge.runtime import use
from cwm_jax.workloads.networks import is_users_own

_TAG = "auto_scheduler_task_scheduler_tag"
_LOG_BASE = 1.618
_LEARNED = 64
"""Candidates that models have learned from before their calls are timed."""


def load(target: str | None, *, remote: bool = False) -> "AnsorEngine":
    """Loads a TVM that has Ansor, for a target as text; None for this machine's CPU.

    Raises:
        TargetError: TVM does not know the target, was built without it, or its device is absent.
        TvmError: There is no such TVM, or programs cannot be built here.
    """
    tvm = use("ansor")
    return AnsorEngine(tvm, resolve_target(tvm, target, remote=remote))


class AnsorEngine(Engine):
    """Ansor on one target.

    Args:
        tvm: A TVM with Ansor.
        target: `tvm.target.Target`.
    """

    def __init__(self, tvm: Any, target: Any) -> None:
        self._tvm, self._target = tvm, target
        self.target = str(target)
        self._handles: dict[str, Any] = {}

    def tasks(self, source: Any) -> list[Task]:
        """Returns the task of a workload, or of the TE tensors of inputs and outputs."""
        if isinstance(source, list):
            return [self.task(self._task_of_tensors(source))]
        return [self.task(create_task(self._tvm, source, self._target))]

    def task(self, search_task: Any, weight: int = 1) -> Task:
        """Returns an `auto_scheduler.SearchTask` as a task."""
        dag = search_task.compute_dag
        flop = float(dag.flop_ct)
        # As Ansor's own scheduler tells tasks that are alike (`derive_similarity_tag`).
        tags = [str(tag) for op in dag.ops if (tag := op.attrs.get(_TAG, None))]
        kind = f"{'_'.join(tags)}_{int(math.log(flop + 1, _LOG_BASE))}" if tags else ""
        key, description = str(search_task.workload_key), str(search_task.desc)
        self._handles[key] = search_task
        graph = graph_of_task(self._tvm, search_task)
        return Task(key, description, flop, kind, graph, search_task, weight)

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
    ) -> Iterator[AnsorSession]:
        """Opens the log of a search."""
        yield AnsorSession(
            self._tvm,
            tasks,
            config,
            place,
            scorer,
            resume=resume,
            interrupt=interrupt,
            learn_every=learn_every,
        )

    def recorded(self, place: Path) -> list[Record]:
        """Returns all records of a log."""
        return load_records(place, summary=LogSummary())

    def candidate(self, place: Path, record: Record) -> Any:
        """Returns the `MeasureInput` of a record of a task that `tasks` or `network` returned."""
        ansor = self._tvm.auto_scheduler
        loaded, _ = ansor.measure_record.load_record_from_string(format_line(record))
        return ansor.MeasureInput(self._handles[record.workload_key], loaded.state)

    def identity(self, place: Path, record: Record) -> bytes:
        """Returns a record as its line of the log."""
        return format_line(record).encode()

    def schedule_text(self, place: Path, task: Task, record: Record) -> str:
        """Returns the loop nest that a record's steps lead to, as TVM prints it."""
        load = self._tvm.auto_scheduler.measure_record.load_record_from_string
        measured, _ = load(format_line(record))
        return str(task.handle.compute_dag.infer_bound_from_state(measured.state))

    def device(self, config: MeasureConfig) -> AnsorDevice:
        """Returns Ansor's builder and runner."""
        return AnsorDevice(self._tvm, self._target, config)

    def collector(self, scorer: Scorer | None) -> AnsorCollector:
        """Returns what draws and keeps Ansor's candidates."""
        return AnsorCollector(self._tvm, scorer)

    def corpus_tasks(self) -> AnsorTasks:
        """Returns what makes Ansor's tasks."""
        return AnsorTasks(self._tvm, self._target)

    def scoring_calls(self, task: Task, scorer: Scorer, count: int) -> ScoringCalls:
        """Samples states as a search does at first: Ansor asks `predict(task, states)`."""
        from cwm_jax.tvm_bridge.ansor.cost_model import schedules_of_states

        states: list[Any] = []
        seed = 1
        while len(states) < count:
            policy = sketch_policy(self._tvm, task.handle, seed)
            states += list(policy.sample_initial_population())
            seed += 1
        states = states[:count]
        models = {
            name: create_cost_model(self._tvm, name, scorer=scorer, round_size=16, seed=0)[0]
            for name in ("world-model", "xgboost")
        }
        measure = self._tvm.auto_scheduler.measure
        learned = states[:_LEARNED]
        inputs = [measure.MeasureInput(task.handle, state) for state in learned]
        results = [
            measure.MeasureResult([latency], 0, "", 1.0, 0)
            for latency in pretend_latencies(len(learned))
        ]
        for model in models.values():
            model.update(inputs, results)
        return ScoringCalls(
            task.graph,
            schedules_of_states(task.handle, states),
            {
                name: lambda batch, model=model: partial(model.predict, task.handle, states[:batch])
                for name, model in models.items()
            },
        )

    def network(self, text: str, seed: int) -> NetworkModel:
        """Loads a network as Relay, with its tasks; of a user's own, those that Ansor can tune."""
        source = load_network(self._tvm, text, seed)
        found = extract_tasks(self._tvm, source.module, source.params, self._target)
        tasks = [self.task(task, weight) for task, weight in found]
        return NetworkModel(
            source.name, self._tunable(tasks, source) if is_users_own(text) else tasks, source
        )

    def compile(self, network: NetworkModel, place: Path) -> Any:
        """Returns TVM's factory of the graph executor."""
        return compile_network(self._tvm, network.handle, self._target, place)

    def time(
        self, network: NetworkModel, library: Any, repeats: int, seed: int, tracker: Tracker | None
    ) -> list[float]:
        """Runs a compiled network on random inputs."""
        inputs = random_inputs(network.handle, seed)
        return time_network(self._tvm, library, self._target, inputs, repeats, tracker)

    def _tunable(self, tasks: Sequence[Task], network: NetworkSource) -> list[Task]:
        """Returns the tasks that Ansor can tune, and warns of each other one."""
        found = []
        for task in tasks:
            reason = why_not_tunable(self._tvm, task.handle)
            if reason is None:
                found.append(task)
            else:
                warnings.warn(
                    f"{network.name}, {task.description}: {reason}; it is left as it is",
                    stacklevel=2,
                )
        if not found:
            raise WorkloadError(f"{network.name}: holds no task that Ansor can tune")
        return found

    def _task_of_tensors(self, tensors: list[Any]) -> Any:
        ansor = self._tvm.auto_scheduler
        if not tensors or not all(isinstance(t, self._tvm.te.Tensor) for t in tensors):
            raise WorkloadError("expected the TE tensors of inputs and outputs as a list")
        key = str(
            ansor.workload_registry.register_workload_tensors(
                ansor.ComputeDAG(tensors).workload_key(), tensors, override=True
            )
        )
        keep = ansor.LayoutRewriteOption.NO_REWRITE
        task = ansor.SearchTask(workload_key=key, target=self._target, layout_rewrite_option=keep)
        reason = why_not_tunable(self._tvm, task)
        if reason is not None:
            raise WorkloadError(f"{key[:80]}: {reason}")
        return task
