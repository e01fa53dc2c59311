"""MetaSchedule's candidates and results -> database lines, steps and records."""

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cwm_jax.errors import RecordError
from cwm_jax.records.ansor_log import TRANSLATED
from cwm_jax.records.metaschedule_database import RECORDS_FILE, WORKLOADS_FILE, parse_trace_line
from cwm_jax.records.program import Program
from cwm_jax.records.record import Record, TaskDetails
from cwm_jax.records.steps import Step
from cwm_jax.records.trace_translation import translate_trace

FAILED_SECONDS = 1e10
"""What TVM's own callback writes for a candidate that did not run."""

_RAM = Path("/dev/shm")


def database_lines(
    tvm: Any,
    module: Any,
    target: Any,
    candidates: Sequence[Any],
    seconds: Sequence[Sequence[float]],
) -> list[bytes]:
    """Returns the lines that TVM's JSON database has for measured candidates of one module.

    TVM writes a database in C++, the cheapest way out of its objects.

    Args:
        tvm: A TVM with MetaSchedule.
        module: Of the candidates.
        target: TVM target.
        candidates: `MeasureCandidate`s.
        seconds: Of each.

    Raises:
        RecordError: TVM left some out.
    """
    if not candidates:
        return []
    databases = tvm.s_tir.meta_schedule.database
    folder = _RAM if _RAM.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="cwm-", dir=folder) as work:
        paths = [str(Path(work) / name) for name in (WORKLOADS_FILE, RECORDS_FILE)]
        database = databases.JSONDatabase(*paths)
        workload = database.commit_workload(module)
        for candidate, measured in zip(candidates, seconds, strict=True):
            database.commit_tuning_record(
                databases.TuningRecord(
                    candidate.sch.trace, workload, list(measured), target, candidate.args_info
                )
            )
        lines = Path(paths[1]).read_bytes().splitlines()
    if len(lines) != len(candidates):
        raise RecordError(f"TVM wrote {len(lines)} of {len(candidates)} candidates")
    return lines


def steps_of_candidates(
    tvm: Any, module: Any, target: Any, candidates: Sequence[Any], program: Program
) -> list[tuple[Step, ...]]:
    """Returns the steps of candidates of one module.

    Raises:
        RecordError: A trace is not one of the program, or this version does not know it.
    """
    lines = database_lines(tvm, module, target, candidates, [[1.0]] * len(candidates))
    return [translate_trace(parse_trace_line(line), program) for line in lines]


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
    seconds = () if result.error_msg else tuple(float(value) for value in result.run_secs or ())
    valid = bool(seconds) and all(math.isfinite(value) and value > 0 for value in seconds)
    return Record(
        workload_key=program.workload_key,
        target=str(target),
        task=TaskDetails(None, ()),
        steps=schedule,
        costs=seconds if valid else (FAILED_SECONDS,),
        error_code=0 if valid else 1,
        measure_seconds=0.0,
        timestamp=int(time.time()),
        version=TRANSLATED,
    )
