"""The world model as MetaSchedule's cost model.

Importing this module loads a TVM that has MetaSchedule (see `cwm_jax.tvm_bridge.runtime.use`).
"""

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from cwm_jax.errors import CheckpointError
from cwm_jax.features.batch import collection_paused
from cwm_jax.ranking.gaussian_process import AdaptationConfig
from cwm_jax.ranking.online import OnlineRanker
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.ranking.task_ranker import TaskRanker, read_measurements, write_measurements
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.record import device_of, latency_of_costs
from cwm_jax.tvm_bridge.metaschedule.builder import load_intrinsics
from cwm_jax.tvm_bridge.metaschedule.graphs import (
    read_graph,
    warn_of_failures,
    warn_of_ranking,
    warn_of_traces,
)
from cwm_jax.tvm_bridge.metaschedule.traces import (
    CandidateReader,
    errors_of_results,
    seconds_of_result,
    steps_of_candidates,
)
from cwm_jax.tvm_bridge.runtime import use

_tvm: Any = use("metaschedule")
_structural_hash: Any = importlib.import_module("tvm_ffi").structural_hash
_derived_object: Any = _tvm.ir.utils.derived_object
_ms: Any = _tvm.s_tir.meta_schedule
_MAIN = "main"
"""What MetaSchedule calls a function that has no name."""


class SavedModelError(CheckpointError, RuntimeError):
    """A file is none that `WorldModelCostModel.save` wrote."""


# Else TVM, through which `load` is called, would make a `RuntimeError` of it.
importlib.import_module("tvm_ffi").register_error(SavedModelError.__name__, SavedModelError)


@_derived_object
class WorldModelCostModel(_ms.cost_model.PyCostModel):
    """MetaSchedule's cost model, backed by a world model and the measurements of the search.

    One instance serves any number of tasks, in `tune_tir`, `tune_relax` and a `TuneContext`. A
    function that it cannot read costs that function's ranking, never the search (`UnreadWarning`).

    Args:
        checkpoint: Name of a shipped checkpoint, a checkpoint folder, or a loaded `Scorer`.
        adaptation: How measurements of a workload correct its ranking.
        reader: Reader of candidates, for models that share one; by default one of its own.

    Attributes:
        online: Ranks the steps of candidates, corrected by what is measured on the device of the
            first task.

    Raises:
        CheckpointError: The checkpoint is missing or does not fit.
    """

    def __init__(
        self,
        checkpoint: Path | str | Scorer,
        adaptation: AdaptationConfig | None = None,
        reader: CandidateReader | None = None,
    ) -> None:
        super().__init__()
        # Not when this module is imported: the processes that build import a user's script, too.
        load_intrinsics()
        self._ranker = TaskRanker("metaschedule", checkpoint, adaptation)
        self.online = self._ranker.online
        self._reader = reader or CandidateReader(_tvm)

    def load(self, path: str) -> None:
        """Takes in the measurements that `save` wrote.

        Raises:
            SavedModelError: The file is none of these, a `CheckpointError`.
        """
        try:
            self._ranker.remember(read_measurements(Path(path)))
        except CheckpointError as error:
            raise SavedModelError(str(error)) from error

    def save(self, path: str) -> None:
        """Writes the measurements seen so far as JSON; the checkpoint is not copied."""
        write_measurements(Path(path), self._ranker.measured())

    def update(self, context: Any, candidates: Sequence[Any], results: Sequence[Any]) -> None:
        """Takes in measurements; the next `predict` of their module uses them.

        Args:
            context: `TuneContext` of the module.
            candidates: `MeasureCandidate`s.
            results: Their `RunnerResult`s.
        """
        graph = self.graph_of(context)
        key, online = graph.workload_key, self.online_of(context)
        try:
            schedules = steps_of_candidates(_tvm, candidates, graph)
            for schedule, result in zip(schedules, results, strict=True):
                online.learn(key, schedule, latency_of_result(result))
        except Exception as error:  # whatever it is, the other functions are tuned
            warn_of_ranking(key, error)
        errors = errors_of_results(results)
        if len(errors) == len(results) and not _ran(online, key):
            warn_of_failures(key, errors)

    def predict(self, context: Any, candidates: Sequence[Any]) -> Float64[np.ndarray, "candidate"]:
        """Scores candidates of one module, higher is better.

        Args:
            context: `TuneContext` of the module.
            candidates: `MeasureCandidate`s.
        """
        graph, online = self.graph_of(context), self.online_of(context)
        try:
            return self._rank(online, graph, candidates)
        except Exception as error:  # whatever it is, the other functions are tuned
            warn_of_ranking(graph.workload_key, error)
            return np.zeros(len(candidates))

    def _rank(
        self, online: OnlineRanker, graph: ComputeGraph, candidates: Sequence[Any]
    ) -> Float64[np.ndarray, "candidate"]:
        with collection_paused():
            # An evolutionary search asks again about what it kept of a generation.
            unknown = partial(online.unknown_names, graph)
            unread = partial(warn_of_traces, graph)
            reading = self._reader.read(candidates, graph, unknown, unread)
            scores = online.rank_named(graph, reading.lines, reading.groups)
        return scores.astype(np.float64)

    def online_of(self, context: Any) -> OnlineRanker:
        """Returns what ranks for the device of a `TuneContext`."""
        return self._ranker.online_on(device_of(str(context.target)))

    def graph_of(self, context: Any) -> ComputeGraph:
        """Returns the compute graph of the module of a `TuneContext`."""
        module, cores = context.mod, context.target.attrs.get("num-cores")
        name = str(context.task_name or _MAIN)
        return self._ranker.graph(
            module,  # not its key: MetaSchedule asks about one module thousands of times
            str(context.target),
            None if cores is None else int(cores),
            lambda: read_graph(_tvm, module, workload_key(module), None if name == _MAIN else name),
        )


def _ran(online: OnlineRanker, key: str) -> bool:
    return any(np.isfinite(latency) for _, latency in online.measured.get(key, ()))


def workload_key(module: Any) -> str:
    """Returns the key of a module's records: its structural hash, as databases write it."""
    return str(_structural_hash(module) % 2**64)


def latency_of_result(result: Any) -> float:
    """Returns the mean latency in seconds of a `RunnerResult`; infinity if it failed."""
    return latency_of_costs(seconds_of_result(result))
