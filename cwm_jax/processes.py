"""The processes that this one has started: kept from Ctrl-C, found, stopped and ended."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def sheltered_children() -> Iterator[None]:
    """Keeps Ctrl-C from processes that are started meanwhile, TVM's builders and runners.

    A terminal sends it to the whole group; they would die with a traceback each.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_descendants() -> list[int]:
    """Stops all processes that this one has started, so that none starts another, and lists them.

    Stopped ones do not end: nobody sees a builder die, and takes that for a failure.
    """
    found: list[int] = []
    for _ in range(20):
        fresh = [pid for pid in descendants(os.getpid()) if pid not in found]
        if not fresh:
            break
        for pid in fresh:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGSTOP)
        found += fresh
    return found


def kill(processes: Sequence[int]) -> None:
    """Ends processes at once; those that are gone already do not matter."""
    for pid in processes:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Returns all processes that a process has started, and those that they have."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found, todo = [], [pid]
    while todo:
        todo_next = children.get(todo.pop(), [])
        found += todo_next
        todo += todo_next
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Yields every process of the machine with its parent."""
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        for entry in proc.iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    # The name of a program, in brackets, may hold anything.
                    fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                    if fields[0] != b"Z":
                        yield int(entry.name), int(fields[1])
        return
    import subprocess

    with contextlib.suppress(OSError, ValueError):
        command = ["ps", "-A", "-o", "pid=,ppid="]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            child, parent = line.split()
            yield int(child), int(parent)
