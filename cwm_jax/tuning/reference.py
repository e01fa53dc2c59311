"""The latency of a reference program tells how fast the machine was around a candidate.

TVM's worker threads spin: a second busy process on the same cores makes latencies wrong by
several times, and the reference's with them. On machines that others share, the speed changes
within seconds, too.
"""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson

from cwm_jax.files import append_lines

_FASTER_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class ReferenceRun:
    """The reference around one attempt at a batch of candidates.

    Attributes:
        time: Seconds since the epoch.
        level: What the latencies of a corpus are scaled to, in seconds.
        latencies: Latencies of the reference before, between and after groups of candidates, in
            seconds; infinity where it failed.
        accepted: Whether all groups count.
        kept: How many do.
    """

    time: float
    level: float
    latencies: tuple[float, ...]
    accepted: bool
    kept: int = 0


def read_reference(path: Path) -> list[ReferenceRun]:
    """Reads the runs of the reference program; a last line cut by a kill is dropped.

    Corpora of before latencies were scaled say more of a run, which is left out.
    """
    names = {field.name for field in dataclasses.fields(ReferenceRun)}
    runs: list[ReferenceRun] = []
    if not path.exists():
        return runs
    for line in path.read_bytes().splitlines():
        try:
            fields = orjson.loads(line)
            fields["latencies"] = tuple(fields["latencies"])
            runs.append(ReferenceRun(**{name: fields[name] for name in names if name in fields}))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue
    return runs


def append_reference(path: Path, run: ReferenceRun) -> None:
    """Appends a run of the reference program to a file."""
    append_lines(path, [orjson.dumps(dataclasses.asdict(run))])


def level_of(history: Sequence[ReferenceRun], latencies: Sequence[float]) -> float:
    """Returns the latency of the reference that a corpus is scaled to, in seconds.

    It is that of the first run, ever since; of that run it is the upper end of the faster quarter,
    for what disturbs makes programs slower.

    Args:
        history: Earlier runs in the order of time.
        latencies: Latencies of a run in seconds, taken where it is the first.
    """
    for run in history:
        if math.isfinite(run.level):
            return run.level
    return float(np.quantile(latencies, _FASTER_SHARE, method="lower"))


def group_scales(latencies: Sequence[float], level: float, tolerance: float) -> list[float | None]:
    """Returns by what to scale the latencies of each group of candidates; None: measure it again.

    A group counts if the references before and after it agree. Their mean says how fast the
    machine was.

    Args:
        latencies: Latencies of the reference, one more than there are groups.
        level: What to scale to, in seconds.
        tolerance: Largest relative distance of the two references.
    """
    scales: list[float | None] = []
    for before, after in itertools.pairwise(latencies):
        known = math.isfinite(before) and math.isfinite(after)
        steady = known and abs(after / before - 1) <= tolerance
        scales.append(level / statistics.mean((before, after)) if steady else None)
    return scales
