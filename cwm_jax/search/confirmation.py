"""Chooses the fastest program of a search after remeasuring the best few.

The fastest single measurement may be noise: on a noisy machine the programs that searches had
chosen by one measurement each took 7 % longer (median) when they were measured again, some half as
long again. So a part of the trials remeasures the best programs, fewer and fewer of
them: sequential halving (Karnin et al. 2013), each batch measured together, so that a drift of the
machine touches all.
"""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from cwm_jax.records.record import Record
from cwm_jax.records.steps import Step

_SHARE = 8
_MOST = 16
_LEAST_TRIALS = 32

_Schedule = tuple[Step, ...]
_Batch = TypeVar("_Batch")


def default_confirmations(trials: int, tasks: int = 1) -> int:
    """Returns how many trials of a search remeasure its best programs.

    An eighth, at most 16 a task; none of a short search, which has better uses for them.

    Args:
        trials: Trials of all tasks together.
        tasks: How many tasks share them.
    """
    each = trials // tasks
    return tasks * min(each // _SHARE, _MOST) if each >= _LEAST_TRIALS else 0


def confirm(
    measured: Callable[[], Sequence[Record]],
    remeasure: Callable[[list[Record]], _Batch],
    trials: int,
) -> Iterator[_Batch]:
    """Remeasures the best programs of a search, in smaller and smaller batches.

    Args:
        measured: Returns the records of the workload, those of the batches so far included.
        remeasure: Measures the programs of some records.
        trials: Trials to spend at most.

    Yields:
        What `remeasure` returned for each batch.
    """
    among: set[_Schedule] | None = None
    for size in halvings(trials):
        finalists = fastest_programs(measured(), size, among)
        if len(finalists) < 2:
            return
        yield remeasure(finalists)
        among = {record.steps for record in finalists}


def halvings(trials: int) -> tuple[int, ...]:
    """Returns the sizes of the batches: half of the trials left, at least two programs.

    Args:
        trials: Trials to spend; one may be left over.
    """
    sizes: list[int] = []
    left = trials
    while left >= 2:
        sizes.append(max(2, left // 2))
        left -= sizes[-1]
    return tuple(sizes)


def fastest_programs(
    records: Iterable[Record], count: int, among: Collection[_Schedule] | None = None
) -> list[Record]:
    """Returns a record of each of the fastest programs, the fastest first.

    A program's latency is the mean of all its measurements.

    Args:
        records: Records of one workload.
        count: How many programs at most.
        among: Schedules to choose from; all by default.
    """
    by_program = _by_program(records)
    found = [found for schedule, found in by_program.items() if among is None or schedule in among]
    return [found[0] for found in sorted(found, key=_latency)[:count]]


def best_record(records: Iterable[Record]) -> Record | None:
    """Returns the fastest program of a search, with all its measured latencies as costs.

    Where the program of the least single latency was remeasured, only remeasured programs are
    compared, as one measurement may be noise. None if no measurement succeeded.

    Args:
        records: Records of one workload.
    """
    by_program = list(_by_program(records).values())
    if not by_program:
        return None
    luckiest = min(by_program, key=lambda found: min(record.latency for record in found))
    if len(luckiest) > 1:
        by_program = [found for found in by_program if len(found) > 1]
    best = min(by_program, key=_latency)
    return dataclasses.replace(best[0], costs=tuple(c for record in best for c in record.costs))


def best_programs(records: Iterable[Record], count: int) -> list[Record]:
    """Returns the `best_record` and a record of each of the next fastest programs.

    Args:
        records: Records of one workload.
        count: How many programs at most; none if no measurement succeeded.
    """
    kept = list(records)
    best = best_record(kept)
    if best is None:
        return []
    fastest = fastest_programs(kept, count)
    return [best, *(record for record in fastest if record.steps != best.steps)][:count]


def best_records(records: Iterable[Record]) -> list[Record]:
    """Returns the `best_record` of each workload and target that has one."""
    searches: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        searches[record.workload_key, record.target].append(record)
    return [best for found in searches.values() if (best := best_record(found))]


def _by_program(records: Iterable[Record]) -> dict[_Schedule, list[Record]]:
    found: dict[_Schedule, list[Record]] = defaultdict(list)
    for record in records:
        if record.valid:
            found[record.steps].append(record)
    return found


def _latency(of_program: list[Record]) -> float:
    return statistics.fmean(record.latency for record in of_program)
