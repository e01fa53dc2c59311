"""MetaSchedule's builder and runner as a `Device`."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.tvm_bridge.measuring import REFERENCE_BLOCK, MeasureConfig, reference_product
from cwm_jax.tvm_bridge.metaschedule.records import seconds_of_result


class MetaScheduleDevice:
    """This machine, by MetaSchedule.

    Inputs are `MeasureCandidate`, results `RunnerResult`.

    Args:
        tvm: A TVM with MetaSchedule.
        target: Of all programs.
        config: Settings.
    """

    def __init__(self, tvm: Any, target: Any, config: MeasureConfig) -> None:
        self._ms = tvm.s_tir.meta_schedule
        self._target = target
        kind = str(target.kind.name)
        self._kind = "cpu" if kind == "llvm" else kind
        self._builder = self._ms.builder.LocalBuilder(
            timeout_sec=config.build_timeout, f_build=_build_function()
        )
        self._runner = self._ms.runner.LocalRunner(
            timeout_sec=config.run_timeout,
            evaluator_config=self._ms.runner.EvaluatorConfig(
                number=1,
                repeat=config.repeat,
                min_repeat_ms=config.min_repeat_ms,
                enable_cpu_cache_flush=False,
            ),
        )
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
            futures = self._runner.run(
                [
                    runner.RunnerInput(built[at].artifact_path, self._kind, inputs[at].args_info)
                    for at in good
                ]
            )
            for at, future in zip(good, futures, strict=True):
                results[at] = future.result()
        return results

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


def _build_function() -> Callable[[Any, Any, Any], Any]:
    """Returns what TVM's workers build with.

    TVM's own function first imports all tensor intrinsics, in every worker of every batch, which
    takes far longer than to build; a schedule that uses one holds its code already. A closure is
    sent to the workers by value: they need not import this package.
    """

    def build(module: Any, target: Any, params: Any) -> Any:
        from tvm.driver import build as build_module
        from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

        module = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module)
        return build_module(module, target=target)

    return build


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
