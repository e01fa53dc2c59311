"""Running MetaSchedule's programs on other machines, through TVM's RPC tracker."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from cwm_jax.errors import TargetError
from cwm_jax.tuning.tracker import Tracker, check_device

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
