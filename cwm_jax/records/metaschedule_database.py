"""MetaSchedule's JSON databases -> records.

A database is a folder with a file of workloads, `[hash, module]` a line, and one of records,
`[workload, [trace, seconds, target, arguments]]` a line (`JSONDatabase` of TVM). The modules are
TVM objects; `cwm_jax.tvm_bridge.metaschedule.database_programs` converts them once, so that the
rest needs no TVM.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.errors import RecordError
from cwm_jax.records.ansor_log import TRANSLATED, LogSummary, read_lines
from cwm_jax.records.lines import every_line
from cwm_jax.records.program import Program
from cwm_jax.records.record import Record, TaskDetails
from cwm_jax.records.trace_translation import translate_trace
from cwm_jax.records.traces import Skeletons, Trace, parse_trace

WORKLOADS_FILE = "database_workload.json"
RECORDS_FILE = "database_tuning_record.json"
_FAILED_SECONDS = 1e9
"""TVM writes 1e10 for a candidate that did not run."""


def parse_trace_lines(lines: Iterable[bytes], skeletons: Skeletons) -> list[Trace]:
    """Returns the traces of lines of records.

    Args:
        lines: As TVM's database has them.
        skeletons: Of earlier ones; instructions are read once.

    Raises:
        RecordError: A line is no record.
    """
    return [skeletons.parse(_parse_record_line(line)[1]) for line in lines]


def _parse_record_line(line: bytes) -> tuple[int, Any, list[float], Any]:
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"not JSON ({error})") from error
    match data:
        case [int(workload), [trace, list(seconds), target, list()]]:
            pass
        case _:
            raise RecordError("expected [workload, [trace, seconds, target, arguments]]")
    if not all(type(value) in (int, float) for value in seconds):
        raise RecordError('field "seconds": not numbers')
    return workload, trace, seconds, target


def iterate_workloads(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yields `file:line`, the key and the module of each workload of a database.

    Raises:
        RecordError: The folder holds no database, or a line is no workload. None is skipped, for
            records refer to workloads by their line.
    """
    path = _plain_or_packed(folder, WORKLOADS_FILE)
    try:
        for number, line in every_line(path):
            where = f"{path}:{number}"
            yield where, *_parse_workload_line(line, where)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error})") from error


def _parse_workload_line(line: bytes, where: str) -> tuple[str, str]:
    try:
        match orjson.loads(line):
            case [str(key), str(module)]:
                return key, module
            case _:
                raise RecordError(f"{where}: expected [hash, module]")
    except orjson.JSONDecodeError as error:
        raise RecordError(f"{where}: not JSON ({error})") from error


def iterate_database(
    folder: Path, programs: Mapping[str, Program], summary: LogSummary
) -> Iterator[Record]:
    """Streams the records of a database, plain or gzip'd; skips and counts what does not parse.

    Args:
        folder: Of the database.
        programs: By workload key; records of other workloads are skipped.
        summary: Counts what is read and what is skipped.

    Raises:
        RecordError: The folder holds no database.
    """
    keys = [key for _, key, _ in iterate_workloads(folder)]
    path = _plain_or_packed(folder, RECORDS_FILE)
    for number, line in read_lines(path, summary.skip):
        try:
            record = _parse_record(line, keys, programs)
        except RecordError as error:
            summary.skip(f"{path}:{number}: {error}")
            continue
        summary.records += 1
        summary.valid += record.valid
        yield record


def _parse_record(line: bytes, keys: list[str], programs: Mapping[str, Program]) -> Record:
    workload, trace, seconds, target = _parse_record_line(line)
    if not 0 <= workload < len(keys):
        raise RecordError(f"workload {workload}, expected one below {len(keys)}")
    program = programs.get(keys[workload])
    if program is None:
        raise RecordError(f"workload {keys[workload]} has no program")
    failed = not seconds or max(seconds) >= _FAILED_SECONDS
    return Record(
        workload_key=keys[workload],
        target=orjson.dumps(target, option=orjson.OPT_SORT_KEYS).decode(),
        task=TaskDetails(None, ()),
        steps=translate_trace(parse_trace(trace), program),
        costs=tuple(seconds),
        error_code=int(failed),
        measure_seconds=0.0,
        timestamp=0,
        version=TRANSLATED,
    )


def _plain_or_packed(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise RecordError(f"{folder / name}: no such file, expected a MetaSchedule database")
