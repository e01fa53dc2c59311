"""MetaSchedule's candidates and results -> database lines, steps and records."""

import math
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cwm_jax.errors import RecordError
from cwm_jax.records.ansor_log import TRANSLATED
from cwm_jax.records.graph import Program
from cwm_jax.records.metaschedule.database import RECORDS_FILE, WORKLOADS_FILE, parse_trace_lines
from cwm_jax.records.metaschedule.trace import Skeletons
from cwm_jax.records.metaschedule.translate import translate_traces
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
        module: Of the candidates.
        target: TVM target; None leaves it out.
        entries: Of the candidates.

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
    tvm: Any, candidates: Sequence[Any], program: Program
) -> list[tuple[Step, ...]]:
    """Returns the steps of candidates of one module, whose program is given.

    Warns:
        UnreadWarning: A trace cannot be followed, and is translated as far as it says by itself.
    """
    lines = trace_lines(tvm, candidates)
    distinct = list(dict.fromkeys(lines))
    traces = parse_trace_lines(distinct, Skeletons())
    unread = partial(warn_of_traces, program)
    steps = dict(zip(distinct, translate_traces(traces, program, unread), strict=True))
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
    program: Program, target: Any, schedule: tuple[Step, ...], result: Any
) -> Record:
    """Returns the record of a candidate that was measured just now.

    Args:
        program: Of the candidate.
        target: TVM target.
        schedule: Its steps.
        result: `RunnerResult`.
    """
    seconds = seconds_of_result(result)
    return Record(
        workload_key=program.workload_key,
        target=str(target),
        task=TaskDetails(None, ()),
        steps=schedule,
        costs=seconds or (FAILED_SECONDS,),
        error_code=0 if seconds else 1,
        measure_seconds=0.0,
        timestamp=int(time.time()),
        version=TRANSLATED,
    )
