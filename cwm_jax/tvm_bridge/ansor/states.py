"""Reading `auto_scheduler.MeasureResult`."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.record import Record, latency_of_costs
from cwm_jax.records.store_features import STORE_WIDTH, Stores

_FAILED_SECONDS = 1e10
_UNKNOWN_ERROR = 8
"""`MeasureErrorNo.UNKNOWN_ERROR`."""


def latency_of(result: Any) -> float:
    """Returns the mean latency in seconds; infinity for a failed measurement."""
    if int(result.error_no) != 0:
        return math.inf
    return latency_of_costs([float(cost.value) for cost in result.costs])


def as_measured(ansor: Any, result: Any) -> Any:
    """Returns a result as it is, or as a failure if its latencies are none (`latency_of`).

    Args:
        ansor: TVM's `auto_scheduler`.
        result: `MeasureResult`.
    """
    if int(result.error_no) != 0 or latency_of(result) < math.inf:
        return result
    found = ", ".join(str(float(cost.value)) for cost in result.costs) or "nothing"
    return ansor.measure.MeasureResult(
        [_FAILED_SECONDS],
        _UNKNOWN_ERROR,
        f"measured {found}, expected seconds",
        float(result.all_cost),
        float(result.timestamp),
    )


def first_error(results: Iterable[Any]) -> str:
    """Returns what TVM said of the first failure, or ""."""
    for result in results:
        if int(result.error_no) != 0:
            lines = str(result.error_msg).strip().splitlines() or ["timed out"]
            return f"error {int(result.error_no)}: {lines[-1]}"
    return ""


_BATCH = 256
_NONE = np.zeros((0, STORE_WIDTH), np.float32)


def extract_stores(
    tvm: Any,
    records: Sequence[Record],
    tasks: Mapping[str, Any],
    report: Callable[[int], None] = lambda _: None,
) -> list[Stores]:
    """Lowers every recorded schedule and returns its per-store features.

    Args:
        tvm: A TVM with Ansor.
        records: Of one log, in order.
        tasks: `auto_scheduler.SearchTask` of each workload key.
        report: Called with the number of records done.

    Returns:
        One array a record; no rows where the task is unknown or the program does not lower.
    """
    ansor = tvm.auto_scheduler
    load = ansor.measure_record.load_record_from_string
    rows_of: dict[str, list[int]] = defaultdict(list)
    for at, record in enumerate(records):
        rows_of[record.workload_key].append(at)
    found: list[Stores] = [_NONE] * len(records)
    done = 0
    for key, members in rows_of.items():
        for start in range(0, len(members), _BATCH):
            part = members[start : start + _BATCH]
            if key in tasks:
                states = [load(format_line(records[at]))[0].state for at in part]
                for at, rows in zip(part, features_of_states(tvm, states, tasks[key]), strict=True):
                    found[at] = rows
            done += len(part)
            report(done)
    return found


def features_of_states(tvm: Any, states: Sequence[Any], task: Any) -> list[Stores]:
    """Lowers states of a task and returns their per-store features.

    Args:
        tvm: A TVM with Ansor.
        states: Of the task.
        task: `auto_scheduler.SearchTask`.

    Returns:
        One array a state; no rows where the program does not lower.
    """
    found = tvm.auto_scheduler.feature.get_per_store_features_from_states(states, task)
    arrays = [np.asarray(rows, np.float32) for rows in found]
    return [array if array.ndim == 2 else _NONE for array in arrays]
