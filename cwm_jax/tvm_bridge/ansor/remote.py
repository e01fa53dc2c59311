"""Measuring on other machines, through TVM's RPC tracker."""

from collections.abc import Callable, Sequence
from typing import Any

from cwm_jax.errors import TargetError
from cwm_jax.tuning.tracker import Tracker, check_device

LOST_ROUNDS = 3
"""A search gives up after so many rounds in a row without an answer."""

# `MeasureErrorNo` of what cannot be uploaded, run, or waited for (`auto_scheduler/measure.py`).
_COMPILE_DEVICE, _RUNTIME_DEVICE, _RUN_TIMEOUT = 3, 4, 7


def create_runner(tvm: Any, tracker: Tracker, **options: Any) -> Any:
    """Returns an `auto_scheduler.RPCRunner`.

    Args:
        tvm: A TVM with Ansor.
        tracker: Where to ask for devices.
        options: As for the runner.

    Raises:
        TargetError: The tracker does not answer, or has no device of this key.
    """
    check_device(tvm, tracker)
    try:
        return tvm.auto_scheduler.RPCRunner(tracker.key, tracker.host, tracker.port, **options)
    except RuntimeError as error:
        raise TargetError(
            f"tracker {tracker}: no device answers; see `python -m tvm.exec.query_rpc_tracker "
            f"--host {tracker.host} --port {tracker.port}`"
        ) from error


def connect(tvm: Any, tracker: Tracker) -> Any:
    """Returns an RPC session with a device.

    Raises:
        TargetError: No device answers within a minute.
    """
    check_device(tvm, tracker)
    request = tvm.auto_scheduler.utils.request_remote
    try:
        return request(tracker.key, tracker.host, tracker.port, timeout=60)
    except (RuntimeError, OSError, tvm.TVMError) as error:
        raise TargetError(f"tracker {tracker}: no device answers ({error})") from error


def device_lost(results: Sequence[Any]) -> bool:
    """Whether a round failed as a whole the way it does when the device goes away."""
    lost = (_COMPILE_DEVICE, _RUNTIME_DEVICE, _RUN_TIMEOUT)
    return len(results) > 0 and all(int(result.error_no) in lost for result in results)


def learning_from_answers(update: Callable[..., None]) -> Callable[..., None]:
    """Returns an `update` that learns nothing from a round in which the device was lost."""

    def learn(inputs: Sequence[Any], results: Sequence[Any]) -> None:
        if not device_lost(results):
            update(inputs, results)

    return learn
