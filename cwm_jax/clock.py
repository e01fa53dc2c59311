"""What calls of functions cost."""

import time
from collections.abc import Callable
from typing import Any


class Clock:
    """Notes when functions ran: `calls` holds start and end of each, in seconds."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that is timed."""

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.calls.append((started, time.perf_counter()))

        return timed
