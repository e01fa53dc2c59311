"""`Record`: one measured candidate of a tuning log."""

import dataclasses
import math
from collections.abc import Sequence

from cwm_jax.records.steps import Step

PLAUSIBLE_SECONDS = (1e-9, 1e5)
"""Shorter and longer latencies are no measurements."""


def latency_of_costs(costs: Sequence[float]) -> float:
    """Returns the mean of what was measured of a program, in seconds.

    Infinity, as for a failed measurement, where nothing was measured, or where one of the
    latencies is none that a program can have: zero, negative, endless or not a number.
    """
    low, high = PLAUSIBLE_SECONDS
    known = bool(costs) and all(low <= cost <= high for cost in costs)
    return sum(costs) / len(costs) if known else math.inf


@dataclasses.dataclass(frozen=True, slots=True)
class TaskDetails:
    """Fields of a log line that only TVM reads; kept so that a record can be written back.

    Attributes:
        hardware_parameters: Ansor's `HardwareParams` (cores, vector bytes, cache line bytes,
            ...); None where the log is older than the field.
        rest: Whatever follows it: target host, layout rewrite option, task input names.
    """

    hardware_parameters: tuple[int, ...] | None
    rest: tuple[str | int | tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One line of a tuning log.

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
        """Whose steps these are: `ansor` or `metaschedule`."""
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
