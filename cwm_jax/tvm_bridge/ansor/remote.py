"""Measuring on other machines, through TVM's RPC tracker."""

import dataclasses
import socket
from collections.abc import Callable, Sequence
from typing import Any

from cwm_jax.errors import TargetError

LOST_ROUNDS = 3
"""A search gives up after so many rounds in a row without an answer."""

_ANSWER_SECONDS = 10
# `MeasureErrorNo` of what cannot be uploaded, run, or waited for (`auto_scheduler/measure.py`).
_COMPILE_DEVICE, _RUNTIME_DEVICE, _RUN_TIMEOUT = 3, 4, 7


@dataclasses.dataclass(frozen=True)
class Tracker:
    """Where devices are asked for.

    Attributes:
        host: Of the tracker.
        port: Of the tracker.
        key: Under which the devices are registered.
    """

    host: str
    port: int
    key: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}:{self.key}"


def parse_tracker(text: str) -> Tracker:
    """Reads `HOST:PORT:KEY`; an IPv6 host stands in brackets.

    Raises:
        TargetError: The text is no such thing.
    """
    rest, _, key = text.rpartition(":")
    host, _, port = rest.rpartition(":")
    known = port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    if not (host and key and known):
        raise TargetError(f"tracker {text!r}: expected HOST:PORT:KEY")
    return Tracker(host.removeprefix("[").removesuffix("]"), int(port), key)


def create_runner(tvm: Any, tracker: Tracker, **options: Any) -> Any:
    """Returns an `auto_scheduler.RPCRunner`.

    Args:
        tvm: A TVM with Ansor.
        tracker: Where to ask for devices.
        options: As for the runner.

    Raises:
        TargetError: The tracker does not answer, or has no device of this key.
    """
    _check_device(tvm, tracker)
    try:
        return tvm.auto_scheduler.RPCRunner(tracker.key, tracker.host, tracker.port, **options)
    except RuntimeError as error:
        raise TargetError(
            f"tracker {tracker}: no device answers; see `python -m tvm.exec.query_rpc_tracker "
            f"--host {tracker.host} --port {tracker.port}`"
        ) from error


def _check_device(tvm: Any, tracker: Tracker) -> None:
    """TVM would go on asking in a thread that nobody can stop."""
    try:
        socket.create_connection((tracker.host, tracker.port), timeout=_ANSWER_SECONDS).close()
        found = tvm.rpc.connect_tracker(tracker.host, tracker.port).summary()
    except (OSError, RuntimeError) as error:
        raise TargetError(f"tracker {tracker}: does not answer ({error})") from error
    keys = sorted({str(server["key"]).removeprefix("server:") for server in found["server_info"]})
    if tracker.key not in keys:
        known = f"it has {', '.join(keys)}" if keys else "it has none"
        raise TargetError(f"tracker {tracker}: no device of this key; {known}")


def connect(tvm: Any, tracker: Tracker) -> Any:
    """Returns an RPC session with a device.

    Raises:
        TargetError: No device answers within a minute.
    """
    _check_device(tvm, tracker)
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
