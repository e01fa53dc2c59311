"""A second process that reads traces, so that translating them takes half the time.

`python -m cwm_jax.features.trace_helper` is that process. It says when it is ready, then answers
each question on its input until that ends; it needs neither TVM nor JAX.
"""

import contextlib
import pickle
import select
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import BinaryIO

from cwm_jax.errors import RecordError
from cwm_jax.features.batch import Groups, collection_paused, group_schedules
from cwm_jax.processes import sheltered_children
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.metaschedule.database import parse_trace_lines
from cwm_jax.records.metaschedule.trace import Skeletons
from cwm_jax.records.metaschedule.translate import Unread, translate_traces

_READY = b"\n"


def group_trace_lines(
    lines: Sequence[bytes], graph: ComputeGraph, unread: Unread | None = None
) -> Groups:
    """Groups the schedules that lines of a MetaSchedule database say, as `group_schedules` does.

    Args:
        lines: As TVM writes them.
        graph: Compute graph that they schedule.
        unread: As for `translate_traces`.

    Raises:
        RecordError: A line is no record, or, without `unread`, its trace is not one of the
            program.
    """
    traces = parse_trace_lines(lines, Skeletons())
    return group_schedules(list(translate_traces(traces, graph, unread)))


class TraceHelper:
    """A process that groups lines while its owner does something else.

    It starts when it is first asked, and until it is ready whoever asks does the work. So it is
    where the process ends early.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = self._answering = False

    def begin(
        self, lines: Sequence[bytes], graph: ComputeGraph, unread: Unread | None = None
    ) -> Callable[[], Groups]:
        """Begins what `group_trace_lines` does; returns what waits for its result.

        Args:
            lines: As `group_trace_lines` takes them.
            graph: Compute graph that they schedule.
            unread: As for `translate_traces`; called in this process.
        """
        here = partial(group_trace_lines, lines, graph, unread)
        process = self._idle_process()
        if process is None or not lines:
            return here
        assert process.stdin is not None
        try:
            pickle.dump((lines, graph), process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
        except OSError:  # it has ended
            return here
        self._answering = True
        return partial(self._answer, process, here)

    def _idle_process(self) -> "subprocess.Popen[bytes] | None":
        """Returns the process if it waits for a question."""
        if self._answering:  # nobody waited for the last answer
            self.close()
        if self._process is None:
            command = [sys.executable, "-m", "cwm_jax.features.trace_helper"]
            pipe = subprocess.PIPE
            with sheltered_children():  # in its imports, too
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe)
            self._end = weakref.finalize(self, _end, self._process)
        said = self._process.stdout
        assert said is not None
        if not self._ready and select.select([said], [], [], 0)[0]:
            self._ready = said.read(len(_READY)) == _READY
        return self._process if self._ready else None

    def _answer(self, process: "subprocess.Popen[bytes]", here: Callable[[], Groups]) -> Groups:
        assert process.stdout is not None
        try:
            found = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            found = None
        self._answering = False
        return here() if found is None else found

    def close(self) -> None:
        """Ends the process; another one starts when it is asked again."""
        if self._process is not None:
            self._end()
        self._process = None
        self._ready = self._answering = False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answers questions until there are no more; where a line is wrong, by None."""
    answers.write(_READY)
    answers.flush()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            lines, graph = pickle.load(questions)
            try:
                with collection_paused():
                    found = group_trace_lines(lines, graph)
            except RecordError:
                found = None
            pickle.dump(found, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its owner's
    serve(sys.stdin.buffer, sys.stdout.buffer)
