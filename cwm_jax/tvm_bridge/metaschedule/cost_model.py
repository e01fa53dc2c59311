"""The world model as MetaSchedule's cost model.

Importing this module loads a TVM that has MetaSchedule (see `cwm_jax.tvm_bridge.runtime.use`).
"""

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from jaxtyping import Float64

from cwm_jax.errors import CheckpointError
from cwm_jax.files import write_atomically
from cwm_jax.garbage import collection_paused
from cwm_jax.ranking.adaptation import AdaptationConfig
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.ranking.task_ranker import TaskRanker
from cwm_jax.records.program import Program
from cwm_jax.records.steps import Step
from cwm_jax.tvm_bridge.metaschedule.intrinsics import load_intrinsics
from cwm_jax.tvm_bridge.metaschedule.reading import CandidateReader
from cwm_jax.tvm_bridge.metaschedule.records import (
    errors_of_results,
    seconds_of_result,
    steps_of_candidates,
)
from cwm_jax.tvm_bridge.metaschedule.unread import (
    read_program,
    warn_of_failures,
    warn_of_ranking,
    warn_of_traces,
)
from cwm_jax.tvm_bridge.runtime import use

_tvm: Any = use("metaschedule")
_structural_hash: Any = importlib.import_module("tvm_ffi").structural_hash
_derived_object: Any = _tvm.ir.utils.derived_object
_ms: Any = _tvm.s_tir.meta_schedule
_MAIN = "main"
"""What MetaSchedule calls a function that has no name."""


@_derived_object
class WorldModelCostModel(_ms.cost_model.PyCostModel):
    """MetaSchedule's cost model, backed by a world model and the measurements of the search.

    One instance serves any number of tasks, in `tune_tir`, `tune_relax` and a `TuneContext`. A
    function that it cannot read costs that function's ranking, never the search (`UnreadWarning`).

    Args:
        checkpoint: Name of a shipped checkpoint, a checkpoint folder, or a loaded `Scorer`.
        adaptation: How measurements of a workload correct its ranking.
        reader: Of candidates, for models that share one; by default of its own.

    Attributes:
        online: Ranks the steps of candidates, corrected by what is measured.

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
            CheckpointError: The file is none of these. TVM passes it on as a `RuntimeError` with
                the same words.
        """
        try:
            for key, fields, latency in orjson.loads(Path(path).read_bytes())["measured"]:
                steps = tuple(Step(kind, tuple(map(_frozen, values))) for kind, values in fields)
                self.online.learn(key, steps, float("inf") if latency is None else latency)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: no saved measurements ({error})") from error

    def save(self, path: str) -> None:
        """Writes the measurements seen so far as JSON; the checkpoint is not copied."""
        measured = [
            (key, [(step.kind, step.fields) for step in schedule], latency)
            for key, found in self.online.measured.items()
            for schedule, latency in found
        ]
        write_atomically(Path(path), orjson.dumps({"measured": measured}))

    def update(self, context: Any, candidates: Sequence[Any], results: Sequence[Any]) -> None:
        """Takes in measurements; the next `predict` of their module uses them.

        Args:
            context: `TuneContext` of the module.
            candidates: `MeasureCandidate`s.
            results: Their `RunnerResult`s.
        """
        program = self._program(context)
        key = program.workload_key
        try:
            schedules = steps_of_candidates(_tvm, candidates, program)
            for schedule, result in zip(schedules, results, strict=True):
                self.online.learn(key, schedule, latency_of_result(result))
        except Exception as error:  # whatever it is, the other functions are tuned
            warn_of_ranking(key, error)
        errors = errors_of_results(results)
        if len(errors) == len(results) and not self._ran(key):
            warn_of_failures(key, errors)

    def predict(self, context: Any, candidates: Sequence[Any]) -> Float64[np.ndarray, "candidate"]:
        """Scores candidates of one module, higher is better.

        Args:
            context: `TuneContext` of the module.
            candidates: `MeasureCandidate`s.
        """
        program = self._program(context)
        try:
            return self._rank(program, candidates)
        except Exception as error:  # whatever it is, the other functions are tuned
            warn_of_ranking(program.workload_key, error)
            return np.zeros(len(candidates))

    def _rank(
        self, program: Program, candidates: Sequence[Any]
    ) -> Float64[np.ndarray, "candidate"]:
        with collection_paused():
            # An evolutionary search asks again about what it kept of a generation.
            unknown = partial(self.online.unknown_names, program)
            unread = partial(warn_of_traces, program)
            reading = self._reader.read(candidates, program, unknown, unread)
            scores = self.online.rank_named(program, reading.lines, reading.groups)
        return scores.astype(np.float64)

    def _program(self, context: Any) -> Program:
        module, cores = context.mod, context.target.attrs.get("num-cores")
        name = str(context.task_name or _MAIN)
        return self._ranker.program(
            module,  # not its key: MetaSchedule asks about one module thousands of times
            str(context.target),
            None if cores is None else int(cores),
            lambda: read_program(
                _tvm, module, workload_key(module), None if name == _MAIN else name
            ),
        )

    def _ran(self, key: str) -> bool:
        return any(np.isfinite(latency) for _, latency in self.online.measured.get(key, ()))


def workload_key(module: Any) -> str:
    """Returns the key of a module's records: its structural hash, as databases write it."""
    return str(_structural_hash(module) % 2**64)


def latency_of_result(result: Any) -> float:
    """Returns the mean latency in seconds of a `RunnerResult`; infinity if it failed."""
    seconds = seconds_of_result(result)
    return sum(seconds) / len(seconds) if seconds else float("inf")


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
