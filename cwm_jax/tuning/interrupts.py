"""Ctrl-C during a search.

TVM calls the cost model from C++, which drops a `KeyboardInterrupt`. So a first Ctrl-C only raises
a flag, which the cost model turns into an error that TVM passes on.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cwm_jax.interrupts import INTERRUPTED, held


class SearchInterrupted(Exception):  # noqa: N818 - a request, not an error
    """The user asked the search to stop."""


class Interrupt:
    """Whether the user has asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that raises `SearchInterrupted` once a stop is requested."""

        def guarded(*arguments: Any) -> Any:
            if self.requested:
                raise SearchInterrupted
            return function(*arguments)

        return guarded

    def request(self) -> None:
        """Asks to stop."""
        self.requested = True


@contextmanager
def watch_interrupts() -> Iterator[Interrupt]:
    """Catches Ctrl-C; the second one ends the process at once.

    Under `cwm`, which watches signals itself, also what else asks to end. Outside the main thread
    nothing is caught, since Python handles signals there only.
    """
    interrupt = Interrupt()
    with held(interrupt.request) as watched:
        if watched or threading.current_thread() is not threading.main_thread():
            yield interrupt
            return

        def handle(signal_number: int, frame: Any) -> None:
            if interrupt.requested:
                os._exit(INTERRUPTED)
            interrupt.request()

        previous = signal.signal(signal.SIGINT, handle)
        try:
            yield interrupt
        finally:
            signal.signal(signal.SIGINT, previous)
