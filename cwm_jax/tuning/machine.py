"""What this machine is, for files that must not mix measurements of several, and figures."""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.errors import CorpusError
from cwm_jax.features.hardware import host_caches
from cwm_jax.files import write_atomically
from cwm_jax.records.lines import without_mark
from cwm_jax.tvm_bridge.runtime import threads_in_use, usable_cores

NOTE = "machine.json"
"""File that says what a folder's measurements are of."""


def machine_identity(target: str) -> dict[str, Any]:
    """Returns the target, the CPU, its caches and cores, and the threads programs run on.

    Cloud machines call CPUs of several generations by one name; their caches differ.
    """
    return {
        "target": target,
        "cpu": cpu_model(),
        "caches_kib": list(host_caches()),
        "cores": usable_cores(),
        "threads": threads_in_use(),
    }


def machine_of(file: Path) -> dict[str, Any]:
    """Returns what a folder's measurements are of, as `note_machine` noted it.

    Args:
        file: The note.

    Raises:
        CorpusError: There is no note that can be read.
    """
    try:
        found = orjson.loads(without_mark(file.read_bytes()))
    except (OSError, orjson.JSONDecodeError) as error:
        raise CorpusError(f"{file}: cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise CorpusError(f"{file}: found {str(found)[:40]}, expected what a machine is")
    return found


def add_figures(file: Path, name: str, figures: Mapping[str, Any]) -> None:
    """Writes figures, with the machine that they are of, beside those of other names.

    Args:
        file: JSON of all names; made if it is missing.
        name: Of the figures; earlier ones of this name are replaced.
        figures: As JSON.
    """
    found = orjson.loads(file.read_bytes()) if file.exists() else {}
    found[name] = {"machine": describe_machine(), **figures}
    write_atomically(file, orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")


def note_machine(file: Path, identity: dict[str, Any]) -> None:
    """Notes what the measurements of a folder are of, or refuses to mix them with others.

    Args:
        file: The note.
        identity: Of this machine (`machine_identity`).

    Raises:
        CorpusError: The folder holds measurements of another kind of machine.
    """
    if not file.exists():
        text = orjson.dumps(identity, option=orjson.OPT_INDENT_2)
        write_atomically(file, text + b"\n")
        return
    known = machine_of(file)
    for field, value in identity.items():
        if known.get(field) != value:
            raise CorpusError(
                f"{file.parent}: was measured with {field} {known.get(field)!r}, but this "
                f"machine has {value!r}; collect into another folder"
            )


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
    """Returns what every figure must name: CPU, cores, system, versions."""
    names = ("jax", "flax", "numpy", "xgboost", "bitblas")
    return {
        "cpu": cpu_model(),
        "caches_kib": list(host_caches()),
        "cores": usable_cores(),
        "threads": threads_in_use(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }
