"""MetaSchedule's builder and runners as a `Device`."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.errors import TargetError
from cwm_jax.tuning.machine import Tracker, check_device
from cwm_jax.tuning.measurement import REFERENCE_BLOCK, MeasureConfig, reference_product
from cwm_jax.tvm_bridge.metaschedule.builder import local_builder
from cwm_jax.tvm_bridge.metaschedule.traces import seconds_of_result

PATIENCE = 300.0
"""Seconds after which a search gives up a device that has gone away."""

_FREE_AGAIN = 3.0  # seconds in which a device that is well calls the tracker after a program
_START = 10  # seconds in which a worker imports TVM and is given a device
_POLL = 0.2


class RemoteRunner:
    """Runs programs one by one on a device of a tracker.

    A device that goes away costs the time until it is back, up to `PATIENCE`: the program that was
    on it runs once more. TVM's own `RPCRunner` tells that as the program's failure, and of a
    device that is gone waits without end.

    Args:
        tvm: A TVM with MetaSchedule.
        tracker: Where to ask for a device.
        evaluator: TVM's `EvaluatorConfig`.
        timeout: Seconds that one program may take, with its upload.
        sleep: Waits so many seconds; may raise to stop waiting.

    Raises:
        TargetError: The tracker does not answer, or has no device of this key.
    """

    def __init__(
        self,
        tvm: Any,
        tracker: Tracker,
        evaluator: Any,
        timeout: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        check_device(tvm, tracker)
        self._tvm, self._tracker, self._sleep = tvm, tracker, sleep
        self._runner = tvm.s_tir.meta_schedule.runner
        self._evaluator = evaluator
        self._session = self._runner.RPCConfig(
            tracker_host=tracker.host,
            tracker_port=tracker.port,
            tracker_key=tracker.key,
            session_priority=1,
            session_timeout_sec=timeout,
        )
        self._workers = tvm.support.popen_pool.PopenPoolExecutor(
            max_workers=1, timeout=timeout + _START
        )
        self._run_there = _run_function()

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Runs `RunnerInput`s; returns a `RunnerResult` of each.

        Raises:
            TargetError: The device is gone, and has not come back.
        """
        return [self._run(program) for program in inputs]

    def _run(self, program: Any) -> Any:
        result = self._once(program)
        if result.error_msg is None:
            return result
        waited = await_device(self._tvm, self._tracker, self._sleep)
        return self._once(program) if waited > _FREE_AGAIN else result

    def _once(self, program: Any) -> Any:
        answer = self._workers.submit(
            self._run_there,
            self._session,
            self._evaluator,
            str(program.artifact_path),
            str(program.device_type),
            tuple(argument.as_json() for argument in program.args_info),
        )
        try:
            return self._runner.RunnerResult(answer.result(), None)
        except Exception as error:  # whatever the program, the device or the network raises
            return self._runner.RunnerResult(None, f"{type(error).__name__}: {error}")


def _run_function() -> Callable[..., Any]:
    """Returns what the worker runs; a closure is sent by value, as in `local_builder`."""

    def run(
        config: Any, evaluator: Any, artifact: str, kind: str, arguments: tuple[Any, ...]
    ) -> Any:
        import importlib
        import os

        rpc_runner: Any = importlib.import_module("tvm.s_tir.meta_schedule.runner.rpc_runner")
        session = rpc_runner.default_create_session(config)
        uploaded = os.path.basename(artifact)  # noqa: PTH119 - what TVM's functions take
        try:
            device = session.device(kind, 0)
            module = rpc_runner.default_upload_module(session, artifact, uploaded)
            tensors = rpc_runner.default_alloc_argument(session, device, arguments, 1)
            return rpc_runner.default_run_evaluator(session, module, device, evaluator, tensors)
        finally:
            rpc_runner.default_cleanup(session, uploaded)

    return run


def await_device(tvm: Any, tracker: Tracker, sleep: Callable[[float], None] = time.sleep) -> float:
    """Waits until a device is free; returns the seconds that it took.

    Args:
        tvm: A TVM with MetaSchedule.
        tracker: Where to ask.
        sleep: Waits so many seconds; may raise to stop waiting.

    Raises:
        TargetError: None is free within `PATIENCE`.
    """
    started = time.monotonic()
    while not _is_free(tvm, tracker):
        if time.monotonic() - started > PATIENCE:
            raise TargetError(f"tracker {tracker}: no device was free for {PATIENCE:.0f} s")
        sleep(_POLL)
    return time.monotonic() - started


def _is_free(tvm: Any, tracker: Tracker) -> bool:
    try:
        queues = tvm.rpc.connect_tracker(tracker.host, tracker.port).summary()["queue_info"]
    except (OSError, RuntimeError):
        return False  # the tracker may come back, too
    return tracker.key in queues and queues[tracker.key]["free"] > 0


def connect(tvm: Any, tracker: Tracker) -> Any:
    """Returns an RPC session with a device.

    Raises:
        TargetError: No device answers.
    """
    check_device(tvm, tracker)
    await_device(tvm, tracker)
    try:
        return tvm.rpc.connect_tracker(tracker.host, tracker.port).request(tracker.key)
    except (OSError, RuntimeError) as error:
        raise TargetError(f"tracker {tracker}: no device answers ({error})") from error


class MetaScheduleDevice:
    """This machine by MetaSchedule, or one that it reaches.

    Inputs are `MeasureCandidate`, results `RunnerResult`.

    Args:
        tvm: A TVM with MetaSchedule.
        target: Target of all programs.
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
