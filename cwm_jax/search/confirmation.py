"""Which program of a search is fastest: the best few are measured again before it is chosen.

The least of many noisy latencies is a lucky one: on a noisy machine the programs that searches had
chosen by one measurement each took 7 % longer (median) when they were measured again, some half as
long again. So a part of the trials goes to the best programs once more, to fewer and fewer of
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
    """Returns how many trials of a search measure its best programs again.

    An eighth, at most 16 a task; none of a short search, which has better uses for them.

    Args:
        trials: Of all tasks together.
        tasks: That share them.
    """
    each = trials // tasks
    return tasks * min(each // _SHARE, _MOST) if each >= _LEAST_TRIALS else 0


def confirm(
    measured: Callable[[], Sequence[Record]],
    again: Callable[[list[Record]], _Batch],
    trials: int,
) -> Iterator[_Batch]:
    """Measures the best programs of a search again, in batches of fewer and fewer.

    Args:
        measured: Returns the records of the workload, those of the batches so far included.
        again: Measures the programs of some records.
        trials: To spend at most.

    Yields:
        What each batch brought.
    """
    among: set[_Schedule] | None = None
    for size in halvings(trials):
        finalists = fastest_programs(measured(), size, among)
        if len(finalists) < 2:
            return
        yield again(finalists)
        among = {record.steps for record in finalists}


def halvings(trials: int) -> tuple[int, ...]:
    """Returns how many programs each batch measures again: half of the trials left, two at least.

    Args:
        trials: To spend; one may be left over.
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

    A program's latency is the mean of all that was measured of it.

    Args:
        records: Of one workload.
        count: How many programs at most.
        among: Schedules to choose from; all by default.
    """
    by_program = _by_program(records)
    found = [found for schedule, found in by_program.items() if among is None or schedule in among]
    return [found[0] for found in sorted(found, key=_latency)[:count]]


def best_record(records: Iterable[Record]) -> Record | None:
    """Returns the fastest program of a search, with all that was measured of it as its costs.

    Where the program of the least latency was measured again, one among those that were is
    chosen: any other's latency is a lucky one. None if no measurement succeeded.

    Args:
        records: Of one workload.
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
        records: Of one workload.
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
