"""The world model as Ansor's cost model.

Importing this module loads a TVM that has Ansor (see `cwm_jax.tvm_bridge.runtime.use`).
"""

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from cwm_jax.errors import CwmError, RecordError, last_line
from cwm_jax.features.batch import collection_paused
from cwm_jax.features.log_text import group_text
from cwm_jax.ranking.gaussian_process import AdaptationConfig
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.ranking.task_ranker import Measurement, TaskRanker
from cwm_jax.records.ansor_log import parse_line
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import iterate_records
from cwm_jax.records.record import Device, device_of, device_of_record
from cwm_jax.records.steps import Step
from cwm_jax.tvm_bridge.ansor.graphs import graph_of_task, latency_of
from cwm_jax.tvm_bridge.runtime import use

_tvm: Any = use("ansor")
_auto_scheduler: Any = _tvm.auto_scheduler
_RAM = Path("/dev/shm")
_HARDWARE_PARAMETERS = (
    "num_cores",
    "vector_unit_bytes",
    "cache_line_bytes",
    "max_shared_memory_per_block",
    "max_local_memory_per_block",
    "max_threads_per_block",
    "max_vthread_extent",
    "warp_size",
)
"""In the order of a record."""
_UNREADABLE = (CwmError, ArithmeticError, LookupError, TypeError, ValueError)
"""What reading a schedule may raise: a user's task may hold anything that TVM knows."""


class UnrankedTaskWarning(UserWarning):
    """Schedules of a task are beyond what the world model reads, and are not told apart."""


class WorldModelCostModel(_auto_scheduler.cost_model.cost_model.PythonBasedModel):
    """Ansor's cost model, backed by a world model and the measurements of the search.

    One instance serves any number of tasks, in `SketchPolicy` and in `TaskScheduler`.

    Args:
        checkpoint: Name of a shipped checkpoint, a checkpoint folder, or a loaded `Scorer`.
        adaptation: How measurements of a workload correct its ranking.

    Attributes:
        online: Ranks by the checkpoint and by what is measured on the device of the first task.

    Raises:
        CheckpointError: The checkpoint is missing or does not fit.
    """

    def __init__(
        self,
        checkpoint: Path | str | Scorer,
        adaptation: AdaptationConfig | None = None,
    ) -> None:
        super().__init__()
        self._ranker = TaskRanker("ansor", checkpoint, adaptation)
        self.online = self._ranker.online
        self._unranked: set[str] = set()

    def predict(self, task: Any, states: Sequence[Any]) -> Float32[np.ndarray, "state"]:
        """Scores states of one task, higher is better.

        Args:
            task: `auto_scheduler.SearchTask`.
            states: Complete schedules. What the model cannot read of them costs the task its
                ranking: it warns, and they score alike.
        """
        if len(states) == 0:
            return np.zeros(0, np.float32)
        key = str(task.workload_key)
        if key not in self._unranked:
            try:
                graph = self.graph(task)
                online = self._ranker.online_on(_device_of_task(task))
                with collection_paused():
                    return online.rank_groups(graph, group_text(_log_of(task, states)))
            except _UNREADABLE as error:
                self._note_unranked(key, error)
        return np.zeros(len(states), np.float32)

    def predict_stages(self, task: Any, states: Sequence[Any]) -> Float32[np.ndarray, "packed"]:
        """Scores states in Ansor's packed form, without a breakdown by stage.

        The model ranks whole programs: each state is followed by a stage count of zero, as
        Ansor's own model does before it is trained.
        """
        scores = self.predict(task, states)
        return np.concatenate([scores, np.zeros(len(scores), np.float32)])

    def update(self, inputs: Sequence[Any], results: Sequence[Any]) -> None:
        """Takes in measurements; the next `predict` of their workloads uses them.

        Args:
            inputs: `auto_scheduler.MeasureInput`s.
            results: `auto_scheduler.MeasureResult`s.
        """
        # Not the result itself: TVM writes a latency that is none as what is no JSON.
        done = _auto_scheduler.measure.MeasureResult([1.0], 0, "", 0.0, 0.0)
        for measured, result in zip(inputs, results, strict=True):
            line = _auto_scheduler.measure_record.dump_record_to_string(measured, done)
            try:
                record = parse_line(str(line))
            except RecordError as error:
                self._note_unranked(str(measured.task.workload_key), error)
                continue
            online = self._ranker.online_on(device_of_record(record))
            online.learn(record.workload_key, record.steps, latency_of(result))

    def update_from_file(self, file_name: str) -> None:
        """Takes in the measurements of a log, each for the tasks of its workload and device."""
        self._ranker.remember(
            Measurement(device_of_record(record), record.workload_key, record.steps, record.latency)
            for record in iterate_records(Path(file_name), LogSummary())
        )

    def _note_unranked(self, key: str, error: Exception) -> None:
        """Gives up ranking a task, and says so once; other tasks go on."""
        if key not in self._unranked:
            self._unranked.add(key)
            warnings.warn(
                f"{key[:80]}: the world model cannot read its schedules ({last_line(error)}), and "
                "does not rank them",
                UnrankedTaskWarning,
                stacklevel=3,
            )

    def graph(self, task: Any) -> ComputeGraph:
        """Returns the compute graph of a task; of one that cannot be read, its key alone."""
        self._ranker.online_on(_device_of_task(task))
        cores = int(task.hardware_params.num_cores)
        return self._ranker.graph(
            str(task.workload_key), str(task.target), cores, lambda: graph_of_task(_tvm, task)
        )


def _device_of_task(task: Any) -> Device:
    found = (int(getattr(task.hardware_params, name)) for name in _HARDWARE_PARAMETERS)
    return device_of(str(task.target), tuple(found))


def schedules_of_states(task: Any, states: Sequence[Any]) -> list[tuple[Step, ...]]:
    """Returns the steps of Ansor states.

    Raises:
        RecordError: TVM wrote a step that this version does not know.
    """
    return [parse_line(line).steps for line in _log_of(task, states).splitlines()]


def _log_of(task: Any, states: Sequence[Any]) -> bytes:
    """Returns states as a log: TVM writes it in C++, the cheapest way out of its objects."""
    make_input = _auto_scheduler.measure.MeasureInput
    inputs = [make_input(task, state) for state in states]
    result = _auto_scheduler.measure.MeasureResult([0.0], 0, "", 0.0, 0.0)
    folder = _RAM if os.access(_RAM, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="cwm-", dir=folder) as work:
        log = Path(work) / "states.json"
        _auto_scheduler.measure_record.save_records(str(log), inputs, [result] * len(inputs))
        return log.read_bytes()
