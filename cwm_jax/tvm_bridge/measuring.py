"""Measurements that notice when the machine was not quiet.

Every batch of candidates runs between runs of a reference program, and a batch around which
the reference was off is run again (`cwm_jax.tvm_bridge.reference`).
"""

import dataclasses
import importlib
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.errors import CorpusError
from cwm_jax.tvm_bridge.reference import ReferenceRun, judge_reference


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """How candidates are measured.

    Attributes:
        build_timeout: Seconds that one candidate may compile.
        run_timeout: Seconds that one candidate may run, all repeats together.
        repeat: Measurements of one candidate.
        min_repeat_ms: One of them runs the program for at least so long.
        reference_every: Candidates between two runs of the reference.
        tolerance: Largest relative distance of the reference from its level in a quiet batch.
        attempts: How often an unquiet batch is run before `measure` gives up.
        level_window: The level is the median of so many latest quiet reference runs.
    """

    build_timeout: int = 30
    run_timeout: int = 15
    repeat: int = 3
    min_repeat_ms: int = 20
    reference_every: int = 16
    tolerance: float = 0.05
    attempts: int = 8
    level_window: int = 30


def reference_input(tvm: Any, target: Any) -> Any:
    """Returns the `MeasureInput` of the reference: a blocked 384^3 matrix product."""
    te, ansor = tvm.te, tvm.auto_scheduler
    size, block = 384, 16
    left = te.placeholder((size, size), name="A")
    right = te.placeholder((size, size), name="B")
    inner = te.reduce_axis((0, size), name="k")
    out = te.compute(
        (size, size), lambda i, j: te.sum(left[i, inner] * right[inner, j], axis=inner), name="C"
    )
    key = f'["cwm_reference", {size}]'
    ansor.workload_registry.register_workload_tensors(key, [left, right, out], override=True)
    task = ansor.SearchTask(workload_key=key, target=target)
    state = task.compute_dag.get_init_state()
    i, j, k = state[out].iters
    i_outer, i_inner = state.split(out, i, [4])
    j_outer, j_inner = state.split(out, j, [block])
    state.reorder(out, [i_outer, j_outer, k, i_inner, j_inner])
    state.parallel(out, i_outer)
    state.unroll(out, i_inner)
    state.vectorize(out, j_inner)
    return ansor.MeasureInput(task, state)


class QuietMeasurer:
    """Builds and runs candidates; builds never overlap runs on the same cores.

    Args:
        tvm: A TVM with Ansor.
        target: Of all candidates.
        config: Settings.
        history: Earlier runs of the reference on this machine.
        wait: Called with the seconds to let an unquiet machine settle.
    """

    def __init__(
        self,
        tvm: Any,
        target: Any,
        config: MeasureConfig,
        history: Sequence[ReferenceRun] = (),
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.config = config
        self.history = list(history)
        self._ansor = tvm.auto_scheduler
        self._wait = wait
        # Builders link too, side by side: TVM's default leaves that to the runner, one by one.
        link = importlib.import_module(f"{tvm.__name__}.contrib.cc").create_shared
        self._builder = self._ansor.LocalBuilder(timeout=config.build_timeout, build_func=link)
        self._runner = self._ansor.LocalRunner(
            timeout=config.run_timeout,
            number=1,
            repeat=config.repeat,
            min_repeat_ms=config.min_repeat_ms,
            enable_cpu_cache_flush=False,
        )
        self._reference = reference_input(tvm, target)
        built = self._builder.build([self._reference], verbose=0)[0]
        if int(built.error_no) != 0:
            raise CorpusError(f"the reference program does not build: {built.error_msg}")
        self._reference_built = built

    def measure(self, inputs: Sequence[Any]) -> list[Any]:
        """Builds candidates and runs them until the machine was quiet around all of them.

        Args:
            inputs: `auto_scheduler.MeasureInput` each.

        Returns:
            A `MeasureResult` each.

        Raises:
            CorpusError: The machine did not become quiet.
        """
        built = list(self._builder.build(list(inputs), verbose=0))
        try:
            for attempt in range(self.config.attempts):
                results, latencies = self._run(inputs, built)
                self.history.append(self._judge(latencies))
                if self.history[-1].accepted:
                    return results
                self._wait(min(60.0, 2.0 * 2**attempt))
        finally:
            for result in built:
                _remove(result)
        shown = ", ".join(f"{latency * 1e3:.3f}" for latency in self.history[-1].latencies)
        level = self.history[-1].level * 1e3
        raise CorpusError(
            f"the machine is not quiet: the reference program took {shown} ms, expected "
            f"{level:.3f} ms within {self.config.tolerance:.0%}; stop what else runs here"
        )

    def _judge(self, latencies: tuple[float, ...]) -> ReferenceRun:
        return judge_reference(
            self.history,
            latencies,
            tolerance=self.config.tolerance,
            window=self.config.level_window,
            time=time.time(),
        )

    def _run(
        self, inputs: Sequence[Any], built: Sequence[Any]
    ) -> tuple[list[Any], tuple[float, ...]]:
        """Runs copies of what was built: TVM's runner deletes what it has run."""
        every = self.config.reference_every
        schedule: list[int | None] = [None]
        for at in range(len(inputs)):
            schedule.append(at)
            if (at + 1) % every == 0 or at + 1 == len(inputs):
                schedule.append(None)
        run_inputs = [self._reference if at is None else inputs[at] for at in schedule]
        copies = [self._copy(self._reference_built if at is None else built[at]) for at in schedule]
        try:
            done = self._runner.run(run_inputs, copies, verbose=0)
        finally:
            for copy in copies:
                _remove(copy)
        results: list[Any] = [None] * len(inputs)
        latencies: list[float] = []
        for at, result in zip(schedule, done, strict=True):
            if at is None:
                latencies.append(_median_cost(result))
            else:
                results[at] = result
        return results, tuple(latencies)

    def _copy(self, built: Any) -> Any:
        if int(built.error_no) != 0:
            return built
        source = Path(str(built.filename))
        target = Path(tempfile.mkdtemp(prefix="cwm-")) / source.name
        shutil.copyfile(source, target)
        return self._ansor.measure.BuildResult(
            str(target), built.args, built.error_no, built.error_msg, built.time_cost
        )


def _median_cost(result: Any) -> float:
    if int(result.error_no) != 0:
        return math.inf
    return float(np.median([float(cost.value) for cost in result.costs]))


def _remove(built: Any) -> None:
    if str(built.filename):
        shutil.rmtree(Path(str(built.filename)).parent, ignore_errors=True)
