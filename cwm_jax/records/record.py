"""`Record`: one measured candidate of a tuning log."""

import dataclasses
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

from cwm_jax.records.steps import Step

PLAUSIBLE_SECONDS = (1e-9, 1e5)
"""Latencies outside this range are treated as failed measurements."""


def latency_of_costs(costs: Sequence[float]) -> float:
    """Returns the mean of a program's measured latencies, in seconds.

    It is infinity, as for a failed measurement, where there are none, or where one of them is
    impossible: zero, negative, infinite or not a number.

    Examples:
        >>> latency_of_costs([0.5, 1.5]), latency_of_costs([]), latency_of_costs([0.0, 1.0])
        (1.0, inf, inf)
    """
    low, high = PLAUSIBLE_SECONDS
    known = bool(costs) and all(low <= cost <= high for cost in costs)
    return sum(costs) / len(costs) if known else math.inf


@dataclasses.dataclass(frozen=True, slots=True)
class TaskDetails:
    """Holds fields of a log line that only TVM reads, so that a record can be written back.

    Attributes:
        hardware_parameters: Ansor's `HardwareParams` (cores, vector bytes, cache line bytes,
            ...); None where the log is older than the field.
        rest: Whatever follows it: target host, layout rewrite option, task input names.
    """

    hardware_parameters: tuple[int, ...] | None
    rest: tuple[str | int | tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """Holds one tuning record: a schedule of a workload and its measured latencies.

    Examples:
        >>> details = TaskDetails(None, ())
        >>> record = Record('["f", 8]', "llvm", details, (), (0.001, 0.003), 0, 1.0, 0, "v0.6")
        >>> record.valid, record.latency
        (True, 0.002)

    Attributes:
        workload_key: Names the workload; records of one key are comparable.
        target: TVM target string.
        task: The line's other task fields.
        steps: The schedule, in the order in which it is applied.
        costs: Measured latencies in seconds, one a repeat; for a failed measurement a
            stand-in that the measurer wrote.
        error_code: 0, or TVM's `MeasureErrorNo` of a failed measurement.
        measure_seconds: Wall time that building and running took.
        timestamp: Seconds since the epoch.
        version: Version of the log format, such as `v0.6`.
    """

    workload_key: str
    target: str
    task: TaskDetails
    steps: tuple[Step, ...]
    costs: tuple[float, ...]
    error_code: int
    measure_seconds: float
    timestamp: int
    version: str

    @property
    def valid(self) -> bool:
        """Whether the measurement succeeded, with latencies that a program can have."""
        return self.latency < math.inf

    @property
    def engine(self) -> str:
        """The search engine whose steps these are: `ansor` or `metaschedule`."""
        return "ansor" if self.version.startswith("v") else self.version.partition("-")[0]

    @property
    def cores(self) -> int | None:
        """Cores that the program ran on, where the log tells (CPU targets of Ansor)."""
        known = self.task.hardware_parameters
        return known[0] if known and known[0] > 0 else None

    @property
    def latency(self) -> float:
        """Mean latency in seconds; infinity for a failed measurement."""
        return latency_of_costs(self.costs) if self.error_code == 0 else math.inf


_SAID = ("kind", "mcpu", "march", "arch", "model", "device", "mattr")
_CORES = "cores"
_PARAMETERS = {0: _CORES, 3: "shared memory", 5: "threads per block", 7: "warp size"}
"""By position in Ansor's hardware parameters; those that are 0, -1 or a limit say nothing."""
_LIMIT = 2**31 - 1
_NOTHING = ("", "unknown", "generic")


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """Holds the known properties of a device.

    Attributes:
        properties: Names and values, sorted; a property that is unknown is not among them.
    """

    properties: tuple[tuple[str, str], ...] = ()

    def merged(self, other: "Device") -> "Device | None":
        """Merges the properties of two descriptions; None if they are of different devices."""
        mine, theirs = dict(self.properties), dict(other.properties)
        if any(theirs.get(name, value) != value for name, value in mine.items()):
            return None
        return Device(tuple(sorted((mine | theirs).items())))

    def __str__(self) -> str:
        known = dict(self.properties)
        kind = known.pop("kind", "an unknown target")
        return " ".join([kind, *(f"{name}={value}" for name, value in known.items())])


UNKNOWN_DEVICE = Device()


class Devices:
    """Numbers devices in the order in which their records are read."""

    def __init__(self) -> None:
        self._found: list[Device] = []
        self._positions: dict[Device, int] = {}

    def position(self, record: Record) -> int:
        """Returns the number of a record's device, counted from 0 in order of appearance."""
        return self.add(device_of_record(record))

    def add(self, device: Device) -> int:
        """Returns the number of a device, that of an earlier one if both may be the same."""
        if device not in self._positions:
            self._positions[device] = self._place(device)
        return self._positions[device]

    def _place(self, device: Device) -> int:
        for at, known in enumerate(self._found):
            if (merged := known.merged(device)) is not None:
                self._found[at] = merged
                return at
        self._found.append(device)
        return len(self._found) - 1

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, position: int) -> Device:
        return self._found[position]


def device_of_record(record: Record) -> Device:
    """Returns the device that a record was measured on, as far as its line says."""
    return device_of(record.target, record.task.hardware_parameters)


@lru_cache(maxsize=4096)
def device_of(target: str, hardware_parameters: Sequence[int] | None = None) -> Device:
    """Returns the device of a target.

    Args:
        target: TVM target string, or the JSON of one; empty where it is unknown.
        hardware_parameters: Ansor's, if known, as a tuple.
    """
    said = _attributes_of(target)
    found = {name: said[name] for name in _SAID if name in said}
    if "mcpu" not in found and "mtriple" in said:
        found["architecture"] = said["mtriple"].partition("-")[0]
    if "num-cores" in said:
        found[_CORES] = said["num-cores"]
    for at, value in enumerate(hardware_parameters or ()):
        if at in _PARAMETERS and 0 < value < _LIMIT:
            found[_PARAMETERS[at]] = str(value)
    return Device(tuple(sorted(found.items())))


def _attributes_of(target: str) -> dict[str, str]:
    """The attributes of a target as text, those that say nothing left out."""
    text = target.strip()
    found = _from_json(text) if text.startswith("{") else _from_text(text)
    return {name: value for name, value in found.items() if value not in _NOTHING}


def _from_json(text: str) -> dict[str, str]:
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"kind": text}
    inner = data.pop("attrs", None)
    fields = data | inner if isinstance(inner, dict) else data
    return {name.replace("_", "-"): _as_text(name, value) for name, value in fields.items()}


def _from_text(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = "kind"
    for word in text.split():
        if word.startswith("-"):
            name, _, value = word.lstrip("-").partition("=")
            found[name.replace("_", "-")] = _as_text(name, value.strip("'\""))
        elif not found.get(name):  # `-mcpu NAME`
            found[name] = _as_text(name, word)
    return {} if found.get("kind") == "null" else found


def _as_text(name: str, value: Any) -> str:
    parts = value.split(",") if isinstance(value, str) else value
    if name == "mattr" and isinstance(parts, list):
        return ",".join(sorted({str(part).strip() for part in parts}))
    return str(value)
