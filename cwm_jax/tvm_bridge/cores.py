"""Cores that programs run on, which TVM miscounts."""

import os
from pathlib import Path

_THREADS = "TVM_NUM_THREADS"
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> int:
    """Returns how many physical cores this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    try:
        return len({Path(_SIBLINGS.format(cpu)).read_text() for cpu in allowed})
    except OSError:
        return len(allowed)


def run_on_all_cores() -> None:
    """Lets TVM's programs use every core, in this process and its children.

    TVM runs on half of what it counts, since it takes every x86 machine for one of two threads a
    core (`src/runtime/threading_backend.cc`, `MaxConcurrency`): on a cloud machine with one
    thread a core, half of the cores stay idle. A number of threads that the user has set stays.
    """
    os.environ.setdefault(_THREADS, str(usable_cores()))


def threads_in_use() -> int:
    """Returns how many threads TVM's programs run on where a TVM is loaded by `runtime.use`."""
    return int(os.environ.get(_THREADS, usable_cores()))
