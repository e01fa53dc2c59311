"""The machine that programs run on: what it is, whether a target suits it, RPC trackers.

Files must not mix measurements of several machines, and every figure names its own.
"""

import dataclasses
import importlib.metadata
import os
import platform
import re
import socket
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.errors import CorpusError, TargetError
from cwm_jax.features.hardware import host_caches
from cwm_jax.files import readable_json, write_atomically
from cwm_jax.records.lines import without_mark
from cwm_jax.tvm_bridge.runtime import threads_in_use, usable_cores

_ANSWER_SECONDS = 10
ARM = ("aarch64", "arm64")
_MOST_CORES = 2**31 - 1
_MOST_SHOWN = 200
_CORES = re.compile(r"(?<!\S)-num-cores(?:[=\s]\s*(?!-\D)(\S+))?")
_SYSTEMS = {"Linux": ("linux",), "Darwin": ("darwin", "macos", "apple")}

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
        name: Name of the figures; earlier ones of this name are replaced.
        figures: As JSON.
    """
    found = orjson.loads(file.read_bytes()) if file.exists() else {}
    found[name] = {"machine": describe_machine(), **figures}
    write_atomically(file, readable_json(found))


def note_machine(file: Path, identity: dict[str, Any]) -> None:
    """Notes what the measurements of a folder are of, or refuses to mix them with others.

    Args:
        file: The note.
        identity: Identity of this machine (`machine_identity`).

    Raises:
        CorpusError: The folder holds measurements of another kind of machine.
    """
    if not file.exists():
        write_atomically(file, readable_json(identity))
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


@dataclasses.dataclass(frozen=True)
class Tracker:
    """Where devices are asked for.

    Attributes:
        host: Host of the tracker.
        port: Port of the tracker.
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
        library: A compiled library of TVM, with `export_library`.
    """
    with tempfile.TemporaryDirectory(prefix="cwm-") as work:
        path = Path(work) / "network.tar"
        library.export_library(str(path))
        session.upload(str(path))
    return session.load_module(path.name)


X86 = ("x86_64", "amd64")


class TargetWarning(UserWarning):
    """A target is not of the machine that programs will run on."""


def stated_target(text: str, example: str) -> str | dict[str, Any]:
    """Returns a target as TVM takes it, a string or the fields of its JSON.

    TVM crashes where there is nothing to read, and where a field of JSON is null.

    Args:
        text: The user's text.
        example: A right one, for the message.

    Raises:
        TargetError: It is empty, no valid JSON, or has a field that is null.
    """
    stripped = text.strip()
    if not stripped:
        raise TargetError(f"target {text!r}: is empty; {example}")
    if not stripped.startswith(("{", "[")):
        cores = _CORES.search(stripped)
        if cores and not re.fullmatch(r"\d+", cores[1] or ""):
            raise TargetError(
                f"target {shown(text)}: num-cores is {cores[1] or 'not given'}, expected a "
                f"positive integer; {example}"
            )
        return stripped
    try:
        fields = orjson.loads(stripped)
    except orjson.JSONDecodeError as error:
        raise TargetError(f"target {shown(text)}: is no valid JSON ({error}); {example}") from error
    if not isinstance(fields, dict):
        raise TargetError(f"target {shown(text)}: is no JSON object; {example}")
    if isinstance(fields.get("num-cores"), bool):
        raise TargetError(
            f"target {shown(text)}: num-cores is no number, expected a positive integer; {example}"
        )
    if missing := _null_field(fields):
        raise TargetError(f"target {shown(text)}: {missing} is null; {example}")
    return fields


def _null_field(fields: Mapping[str, Any]) -> str | None:
    for name, value in fields.items():
        values = value if isinstance(value, list) else [value]
        if any(entry is None for entry in values):
            return repr(name)
        for entry in values:
            if isinstance(entry, dict) and (found := _null_field(entry)):
                return found
    return None


def shown(text: str) -> str:
    """Returns a target as messages repeat it."""
    return repr(text) if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]!r}..."


def check_cores(attributes: Mapping[str, Any], text: str, *, remote: bool, example: str) -> None:
    """Checks the cores that a target states, and warns of more than this machine has.

    Args:
        attributes: Attributes of the target.
        text: The user's text.
        remote: Programs will run elsewhere.
        example: A right target, for the message.

    Raises:
        TargetError: It is no number of cores.
    """
    if "num-cores" not in attributes:
        return
    cores = int(attributes["num-cores"])
    if not 1 <= cores <= _MOST_CORES:
        raise TargetError(
            f"target {shown(text)}: num-cores is {cores}, expected a positive integer; {example}"
        )
    here = usable_threads()
    if cores > here and not remote:
        warnings.warn(
            f"target {shown(text)}: says {cores} cores, but this process may use {here}; programs "
            "are searched for cores that they do not get here",
            TargetWarning,
            stacklevel=3,
        )


def usable_threads() -> int:
    """Returns how many logical CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_triple(triple: str, text: str, example: str) -> None:
    """Checks that programs which are compiled for a triple can run on this machine.

    Raises:
        TargetError: It is of another architecture or system.
    """
    architecture, _, rest = triple.partition("-")
    groups = [group for group in (X86, ARM) if platform.machine().lower() in group]
    if architecture and groups and architecture not in groups[0]:
        raise TargetError(
            f"target {shown(text)}: compiles for {architecture}, but this machine is "
            f"{platform.machine()} and could not run it; {example}"
        )
    own = _SYSTEMS.get(platform.system(), ())
    others = [name for names in _SYSTEMS.values() for name in (*names, "windows") if name in rest]
    if own and others and not any(name in rest for name in own):
        raise TargetError(
            f"target {shown(text)}: compiles for {others[0]}, but this machine is "
            f"{platform.system()} and could not run it; {example}"
        )
