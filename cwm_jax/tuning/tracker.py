"""TVM's RPC tracker, where devices to measure on are asked for."""

import dataclasses
import socket
import tempfile
from pathlib import Path
from typing import Any

from cwm_jax.errors import TargetError

_ANSWER_SECONDS = 10


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


def check_device(tvm: Any, tracker: Tracker) -> None:
    """Checks that a tracker answers and knows a device of the key.

    TVM would go on asking in a thread that nobody can stop.

    Args:
        tvm: A TVM of either engine.
        tracker: Where to ask.

    Raises:
        TargetError: It does not answer, or has no such device.
    """
    try:
        socket.create_connection((tracker.host, tracker.port), timeout=_ANSWER_SECONDS).close()
        found = tvm.rpc.connect_tracker(tracker.host, tracker.port).summary()
    except (OSError, RuntimeError) as error:
        raise TargetError(f"tracker {tracker}: does not answer ({error})") from error
    keys = sorted({str(server["key"]).removeprefix("server:") for server in found["server_info"]})
    if tracker.key not in keys:
        known = f"it has {', '.join(keys)}" if keys else "it has none"
        raise TargetError(f"tracker {tracker}: no device of this key; {known}")


def sent_library(session: Any, library: Any) -> Any:
    """Sends a compiled network to a device, and returns it as the device has loaded it.

    Args:
        session: `RPCSession` with the device.
        library: What TVM built, with `export_library`.
    """
    with tempfile.TemporaryDirectory(prefix="cwm-") as work:
        path = Path(work) / "network.tar"
        library.export_library(str(path))
        session.upload(str(path))
    return session.load_module(path.name)
