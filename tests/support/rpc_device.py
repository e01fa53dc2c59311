"""A real RPC tracker with a device that can be lost and found, of whichever TVM is loaded."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cwm_jax.tuning.machine import Tracker

KEY = "cwm"
_HOST = "127.0.0.1"


class RpcDevice:
    """A tracker and an RPC server of this machine.

    Attributes:
        address: Where to ask for it.
    """

    def __init__(self, tvm: Any) -> None:
        from tvm.rpc.tracker import Tracker as TvmTracker

        self._tvm = tvm
        self._tracker = TvmTracker(_HOST, port=9190, port_end=9990, silent=True)
        self.address = Tracker(_HOST, self._tracker.port, KEY)
        self.find()

    def find(self) -> None:
        """Starts the server."""
        place = (_HOST, self.address.port)
        self._server = self._tvm.rpc.Server(_HOST, key=KEY, tracker_addr=place, silent=True)

    def lose(self) -> None:
        """Ends the server."""
        self._server.terminate()

    def await_call(self) -> None:
        """Waits until the server, whose process imports TVM first, has called the tracker."""
        asked = self._tvm.rpc.connect_tracker(_HOST, self.address.port)
        deadline = time.monotonic() + 60
        while not asked.summary()["queue_info"].get(KEY) and time.monotonic() < deadline:
            time.sleep(0.1)

    def end_tracker(self) -> None:
        """Ends the tracker."""
        self._tracker.terminate()


@contextmanager
def running_device(tvm: Any) -> Iterator[RpcDevice]:
    """A tracker with one device, which has called it."""
    device = RpcDevice(tvm)
    try:
        device.await_call()
        yield device
    finally:
        device.lose()
        device.end_tracker()
