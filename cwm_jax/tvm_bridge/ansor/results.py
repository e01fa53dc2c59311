"""Reading `auto_scheduler.MeasureResult`."""

import math
from collections.abc import Iterable
from typing import Any


def latency_of(result: Any) -> float:
    """Mean latency in seconds; infinity for a failed measurement."""
    if int(result.error_no) != 0:
        return math.inf
    costs = [float(cost.value) for cost in result.costs]
    return sum(costs) / len(costs)


def first_error(results: Iterable[Any]) -> str:
    """What TVM said of the first failure, or ""."""
    for result in results:
        if int(result.error_no) != 0:
            lines = str(result.error_msg).strip().splitlines() or ["timed out"]
            return f"error {int(result.error_no)}: {lines[-1]}"
    return ""
