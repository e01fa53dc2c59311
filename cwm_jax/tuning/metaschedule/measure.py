"""MetaSchedule's builder and runners as a `Device`."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.tuning.measurement import REFERENCE_BLOCK, MeasureConfig, reference_product
from cwm_jax.tuning.tracker import Tracker
from cwm_jax.tvm_bridge.metaschedule.builder import local_builder
from cwm_jax.tvm_bridge.metaschedule.remote import RemoteRunner
from cwm_jax.tvm_bridge.metaschedule.traces import seconds_of_result


class MetaScheduleDevice:
    """This machine by MetaSchedule, or one that it reaches.

    Inputs are `MeasureCandidate`, results `RunnerResult`.

    Args:
        tvm: A TVM with MetaSchedule.
        target: Of all programs.
        config: Settings.
        tracker: Where to ask for a device to run them on; None for this machine.
        sleep: Waits for a device that has gone away; may raise to stop waiting.

    Raises:
        TargetError: The tracker does not answer, or has no such device; also when something is
            run, if the device goes away and does not come back.
    """

    def __init__(
        self,
        tvm: Any,
        target: Any,
        config: MeasureConfig,
        tracker: Tracker | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ms = tvm.s_tir.meta_schedule
        self._target = target
        kind = str(target.kind.name)
        self._kind = "cpu" if kind == "llvm" else kind
        self._builder = local_builder(timeout=config.build_timeout)
        evaluator = self._ms.runner.EvaluatorConfig(
            number=1,
            repeat=config.repeat,
            min_repeat_ms=config.min_repeat_ms,
            enable_cpu_cache_flush=False,
        )
        if tracker is None:
            self._run_all = self._runs_here(evaluator, config.run_timeout)
        else:
            remote = RemoteRunner(tvm, tracker, evaluator, config.run_timeout, sleep)
            self._run_all = remote.run
        self.reference = reference_candidate(tvm)

    def build(self, inputs: Sequence[Any]) -> list[Any]:
        """Builds programs side by side."""
        if not inputs:
            return []
        wanted = [self._ms.builder.BuilderInput(item.sch.mod, self._target) for item in inputs]
        return list(self._builder.build(wanted))

    def failure(self, built: Any) -> str:
        """Returns why a program was not built, "" if it was."""
        return "" if built.error_msg is None else str(built.error_msg)

    def run(self, inputs: Sequence[Any], built: Sequence[Any]) -> list[Any]:
        """Runs programs one by one; one that was not built gives its builder's error."""
        runner = self._ms.runner
        results = [runner.RunnerResult(None, self.failure(program)) for program in built]
        good = [at for at, program in enumerate(built) if not self.failure(program)]
        if good:
            found = self._run_all(
                [
                    runner.RunnerInput(built[at].artifact_path, self._kind, inputs[at].args_info)
                    for at in good
                ]
            )
            for at, result in zip(good, found, strict=True):
                results[at] = result
        return results

    def _runs_here(self, evaluator: Any, timeout: int) -> Callable[[Sequence[Any]], list[Any]]:
        here = self._ms.runner.LocalRunner(timeout_sec=timeout, evaluator_config=evaluator)
        return lambda inputs: [future.result() for future in here.run(list(inputs))]

    def latency(self, result: Any) -> float:
        """Returns the median latency of a result in seconds, infinity if it failed."""
        seconds = seconds_of_result(result)
        return float(np.median(seconds)) if seconds else math.inf

    def scaled(self, result: Any, factor: float) -> Any:
        """Returns a result with its latencies times a factor; failures as they are."""
        seconds = seconds_of_result(result)
        if not seconds:
            return result
        return self._ms.runner.RunnerResult([value * factor for value in seconds], None)

    def discard(self, built: Any) -> None:
        """Removes what was built."""
        if built.artifact_path is not None:
            shutil.rmtree(Path(str(built.artifact_path)).parent, ignore_errors=True)


def reference_candidate(tvm: Any) -> Any:
    """Returns the `MeasureCandidate` of the reference: a blocked 384^3 matrix product."""
    ms = tvm.s_tir.meta_schedule
    left, right, out = reference_product(tvm.te)
    rows, columns = REFERENCE_BLOCK
    module = tvm.IRModule({"main": tvm.te.create_prim_func([left, right, out])})
    schedule = tvm.s_tir.Schedule(module)
    product = schedule.get_sblock("C", "main")
    i, j, k = schedule.get_loops(product)
    i_outer, i_inner = schedule.split(i, [None, rows])
    j_outer, j_inner = schedule.split(j, [None, columns])
    schedule.reorder(i_outer, j_outer, k, i_inner, j_inner)
    schedule.parallel(i_outer)
    schedule.unroll(i_inner)
    schedule.vectorize(j_inner)
    schedule.decompose_reduction(product, k)
    arguments = ms.arg_info.ArgInfo.from_entry_func(module, remove_preproc=True)
    return ms.MeasureCandidate(schedule, arguments)
