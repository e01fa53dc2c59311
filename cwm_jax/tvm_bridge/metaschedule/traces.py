"""MetaSchedule's candidates and results -> database lines, steps and records."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cwm_jax.errors import RecordError
from cwm_jax.features.batch import Groups
from cwm_jax.features.trace_helper import TraceHelper, group_trace_lines
from cwm_jax.records.ansor_log import TRANSLATED
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.metaschedule.database import RECORDS_FILE, WORKLOADS_FILE, parse_trace_lines
from cwm_jax.records.metaschedule.trace import Skeletons
from cwm_jax.records.metaschedule.translate import Unread, translate_traces
from cwm_jax.records.record import Record, TaskDetails, latency_of_costs
from cwm_jax.records.steps import Step
from cwm_jax.tvm_bridge.metaschedule.graphs import warn_of_traces

FAILED_SECONDS = 1e10
"""What TVM's own callback writes for a candidate that did not run."""

_RAM = Path("/dev/shm")


class Entry(NamedTuple):
    """What a database keeps of a candidate.

    Attributes:
        trace: `Trace` of its schedule.
        seconds: As measured.
        arguments: `ArgInfo` of each argument.
    """

    trace: Any
    seconds: Sequence[float]
    arguments: Sequence[Any]


def database_lines(
    tvm: Any, module: Any, target: Any | None, entries: Sequence[Entry]
) -> list[bytes]:
    """Returns the lines that TVM's JSON database has for candidates of one module.

    TVM writes a database in C++, the cheapest way out of its objects.

    Args:
        tvm: A TVM with MetaSchedule.
        module: Module of the candidates.
        target: TVM target; None leaves it out.
        entries: Entries of the candidates.

    Raises:
        RecordError: TVM left some out.
    """
    if not entries:
        return []
    databases = tvm.s_tir.meta_schedule.database
    folder = _RAM if _RAM.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="cwm-", dir=folder) as work:
        paths = [str(Path(work) / name) for name in (WORKLOADS_FILE, RECORDS_FILE)]
        database = databases.JSONDatabase(*paths)
        workload = database.commit_workload(module)
        for trace, seconds, arguments in entries:
            database.commit_tuning_record(
                databases.TuningRecord(trace, workload, list(seconds), target, arguments)
            )
        lines = Path(paths[1]).read_bytes().splitlines()
    if len(lines) != len(entries):
        raise RecordError(f"TVM wrote {len(lines)} of {len(entries)} candidates")
    return lines


def trace_lines(tvm: Any, candidates: Sequence[Any]) -> list[bytes]:
    """Returns a line that says the trace of each candidate, without its postprocessing.

    What postprocessing added to a trace says nothing new, and is most of it. The line is one of a
    database of no module and no target, with which it would take half as long again.
    """
    entries = [
        Entry(candidate.sch.trace.simplified(remove_postproc=True), [1.0], [])
        for candidate in candidates
    ]
    return database_lines(tvm, tvm.IRModule({}), None, entries)


def steps_of_candidates(
    tvm: Any, candidates: Sequence[Any], graph: ComputeGraph
) -> list[tuple[Step, ...]]:
    """Returns the steps of candidates of one module, whose program is given.

    Warns:
        UnreadWarning: A trace cannot be followed, and is translated as far as it says by itself.
    """
    lines = trace_lines(tvm, candidates)
    distinct = list(dict.fromkeys(lines))
    traces = parse_trace_lines(distinct, Skeletons())
    unread = partial(warn_of_traces, graph)
    steps = dict(zip(distinct, translate_traces(traces, graph, unread), strict=True))
    return [steps[line] for line in lines]


def seconds_of_result(result: Any) -> tuple[float, ...]:
    """Returns the measurements of a `RunnerResult` in seconds; none if it failed.

    A latency that no program can have, such as zero, is a failure.
    """
    if result.error_msg is not None:
        return ()
    seconds = tuple(float(value) for value in result.run_secs or ())
    return seconds if latency_of_costs(seconds) < math.inf else ()


def errors_of_results(results: Sequence[Any]) -> list[str]:
    """Returns the last line of what TVM said of each `RunnerResult` that failed."""
    found = []
    for result in results:
        if not seconds_of_result(result):
            lines = str(result.error_msg or "").strip().splitlines()
            found.append(lines[-1].strip() if lines else "")
    return found


def record_of_result(
    graph: ComputeGraph, target: Any, schedule: tuple[Step, ...], result: Any
) -> Record:
    """Returns the record of a candidate that was measured just now.

    Args:
        graph: Compute graph of the candidate.
        target: TVM target.
        schedule: Its steps.
        result: `RunnerResult`.
    """
    seconds = seconds_of_result(result)
    return Record(
        workload_key=graph.workload_key,
        target=str(target),
        task=TaskDetails(None, ()),
        steps=schedule,
        costs=seconds or (FAILED_SECONDS,),
        error_code=0 if seconds else 1,
        measure_seconds=0.0,
        timestamp=int(time.time()),
        version=TRANSLATED,
    )


_WORTHWHILE = 256
"""Fewer candidates are read before the other process has answered."""

_SHARE = 0.65
"""Of the candidates go to the other process. It begins when they are written, and a trace takes
about as long to write as to translate."""


class Reading(NamedTuple):
    """Candidates of one module, about to be read.

    Attributes:
        lines: What `trace_lines` says of each.
        groups: Groups the schedules of distinct ones of the lines, with all that were `unknown`
            among them.
    """

    lines: list[bytes]
    groups: Callable[[list[bytes]], Groups]


class CandidateReader:
    """Reads candidates.

    Args:
        tvm: A TVM with MetaSchedule.
    """

    def __init__(self, tvm: Any) -> None:
        self._tvm = tvm
        self._helper = TraceHelper()

    def read(
        self,
        candidates: Sequence[Any],
        graph: ComputeGraph,
        unknown: Callable[[Sequence[bytes]], list[bytes]],
        unread: Unread,
    ) -> Reading:
        """Has TVM write the traces of candidates.

        Args:
            candidates: `MeasureCandidate`s.
            graph: Compute graph of all of them.
            unknown: Which lines will have to be read, each once.
            unread: As for `translate_traces`.
        """
        if len(candidates) < _WORTHWHILE:
            lines = trace_lines(self._tvm, candidates)
            return Reading(lines, lambda wanted: group_trace_lines(wanted, graph, unread))
        first = int(_SHARE * len(candidates))
        lines = trace_lines(self._tvm, candidates[:first])
        begun = unknown(lines)
        answer = self._helper.begin(begun, graph, unread)
        lines += trace_lines(self._tvm, candidates[first:])

        def groups(wanted: list[bytes]) -> Groups:
            rows, asked = {line: row for row, line in enumerate(wanted)}, set(begun)
            others = [line for line in wanted if line not in asked]
            own = group_trace_lines(others, graph, unread)
            return _placed(own, others, rows) + _placed(answer(), begun, rows)

        return Reading(lines, groups)


def _placed(groups: Groups, lines: Sequence[bytes], rows: dict[bytes, int]) -> Groups:
    """Groups of some lines, with the rows that these have among all."""
    places = np.array([rows[line] for line in lines], np.int32)
    return [(places[members], group) for members, group in groups]
