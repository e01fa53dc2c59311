"""The process of a `TraceHelper`, once it answers."""

import subprocess
import time

from cwm_jax.features.trace_helper import TraceHelper


def answering(helper: TraceHelper) -> "subprocess.Popen[bytes]":
    """Waits until the process answers."""
    for _ in range(600):
        process = helper._idle_process()
        if process is not None:
            return process
        time.sleep(0.05)
    raise AssertionError("the process is not ready after 30 s")
