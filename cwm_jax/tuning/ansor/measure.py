"""Ansor's builder and runner as a `Device`."""

import importlib
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.tuning.measurement import (
    REFERENCE_BLOCK,
    REFERENCE_SIZE,
    MeasureConfig,
    reference_product,
)
from cwm_jax.tvm_bridge.ansor.states import as_measured


def reference_input(tvm: Any, target: Any) -> Any:
    """Returns the `MeasureInput` of the reference: a blocked 384^3 matrix product."""
    ansor = tvm.auto_scheduler
    left, right, out = reference_product(tvm.te)
    key = f'["cwm_reference", {REFERENCE_SIZE}]'
    ansor.workload_registry.register_workload_tensors(key, [left, right, out], override=True)
    task = ansor.SearchTask(workload_key=key, target=target)
    state = task.compute_dag.get_init_state()
    i, j, k = state[out].iters
    rows, columns = REFERENCE_BLOCK
    i_outer, i_inner = state.split(out, i, [rows])
    j_outer, j_inner = state.split(out, j, [columns])
    state.reorder(out, [i_outer, j_outer, k, i_inner, j_inner])
    state.parallel(out, i_outer)
    state.unroll(out, i_inner)
    state.vectorize(out, j_inner)
    return ansor.MeasureInput(task, state)


class AnsorDevice:
    """This machine, by Ansor.

    Inputs are `auto_scheduler.MeasureInput`, results `MeasureResult`.

    Args:
        tvm: A TVM with Ansor.
        target: Of all programs.
        config: Settings.

    Attributes:
        reference: The reference program.
        builder: What builds: an `auto_scheduler.ProgramBuilder`.
    """

    def __init__(self, tvm: Any, target: Any, config: MeasureConfig) -> None:
        self._ansor, self._config = tvm.auto_scheduler, config
        # Builders link too, side by side: TVM's default leaves that to the runner, one by one.
        link = importlib.import_module(f"{tvm.__name__}.contrib.cc").create_shared
        self.builder = self._ansor.LocalBuilder(timeout=config.build_timeout, build_func=link)
        self.reference = reference_input(tvm, target)

    def build(self, inputs: Sequence[Any]) -> list[Any]:
        """Builds programs side by side."""
        return list(self.builder.build(list(inputs), verbose=0))

    def failure(self, built: Any) -> str:
        """Returns why a program was not built, "" if it was."""
        return str(built.error_msg) or "unknown" if int(built.error_no) != 0 else ""

    def run(self, inputs: Sequence[Any], built: Sequence[Any]) -> list[Any]:
        """Runs copies of what was built: TVM's runner deletes what it has run."""
        copies = [self._copy(program) for program in built]
        try:
            # Not by a `LocalRunner`, which a search may have run programs by this very method.
            config, number, cooldown, flush_cache, verbose = self._config, 1, 0.0, False, 0
            timing = (config.run_timeout, number, config.repeat, config.min_repeat_ms)
            run = self._ansor.measure.local_run
            found = run(list(inputs), copies, *timing, cooldown, flush_cache, verbose)
            return [as_measured(self._ansor, result) for result in found]
        finally:
            for copy in copies:
                self.discard(copy)

    def latency(self, result: Any) -> float:
        """Returns the median latency of a result in seconds, infinity if it failed."""
        if int(result.error_no) != 0:
            return math.inf
        return float(np.median([float(cost.value) for cost in result.costs]))

    def scaled(self, result: Any, factor: float) -> Any:
        """Returns a result with its latencies times a factor; failures as they are."""
        if int(result.error_no) != 0:
            return result
        costs = [float(cost.value) * factor for cost in result.costs]
        return self._ansor.measure.MeasureResult(
            costs, result.error_no, result.error_msg, result.all_cost, result.timestamp
        )

    def discard(self, built: Any) -> None:
        """Removes what was built."""
        if str(built.filename):
            shutil.rmtree(Path(str(built.filename)).parent, ignore_errors=True)

    def _copy(self, built: Any) -> Any:
        if int(built.error_no) != 0:
            return built
        source = Path(str(built.filename))
        target = Path(tempfile.mkdtemp(prefix="cwm-")) / source.name
        shutil.copyfile(source, target)
        return self._ansor.measure.BuildResult(
            str(target), built.args, built.error_no, built.error_msg, built.time_cost
        )
