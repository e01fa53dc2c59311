"""What this machine is, for files that must not mix measurements of several, and figures."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from cwm_jax.tvm_bridge.cores import threads_in_use, usable_cores


def machine_identity(target: str) -> dict[str, Any]:
    """Returns the target, the CPU's model, the cores it has and the threads programs run on."""
    return {
        "target": target,
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "threads": threads_in_use(),
    }


def cpu_model() -> str:
    """Returns what the system calls this CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = ("model name", "Hardware", "CPU part")
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(names))
    return next(found, platform.machine())


def describe_machine() -> dict[str, Any]:
    """What a figure must name: CPU, cores, system, versions."""
    names = ("jax", "flax", "numpy", "xgboost", "bitblas")
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "threads": threads_in_use(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }
