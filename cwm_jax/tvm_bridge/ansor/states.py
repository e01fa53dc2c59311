"""Reading `auto_scheduler.MeasureResult`."""

import math
from collections.abc import Iterable
from typing import Any

from cwm_jax.records.record import latency_of_costs

_FAILED_SECONDS = 1e10
_UNKNOWN_ERROR = 8
"""`MeasureErrorNo.UNKNOWN_ERROR`."""


def latency_of(result: Any) -> float:
    """Mean latency in seconds; infinity for a failed measurement."""
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
    """What TVM said of the first failure, or ""."""
    for result in results:
        if int(result.error_no) != 0:
            lines = str(result.error_msg).strip().splitlines() or ["timed out"]
            return f"error {int(result.error_no)}: {lines[-1]}"
    return ""
