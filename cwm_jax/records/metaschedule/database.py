"""MetaSchedule's JSON databases -> records.

A database is a folder with a file of workloads, `[hash, module]` a line, and one of records,
`[workload, [trace, seconds, target, arguments]]` a line (`JSONDatabase` of TVM), of which seconds,
target and arguments may be null. The modules are TVM objects;
`cwm_jax.tvm_bridge.metaschedule.graphs` converts them once (`cwm import`). Without them
a record's steps are what its trace says alone.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cwm_jax.errors import RecordError
from cwm_jax.records.ansor_log import TRANSLATED
from cwm_jax.records.graph import ComputeGraph, shape_only_graph
from cwm_jax.records.lines import LogSummary, every_line, iterate_parsed
from cwm_jax.records.metaschedule.trace import Skeletons, Trace, parse_trace
from cwm_jax.records.metaschedule.translate import Unread, translate_traces
from cwm_jax.records.record import Record, TaskDetails, latency_of_costs

WORKLOADS_FILE = "database_workload.json"
RECORDS_FILE = "database_tuning_record.json"


def is_database(folder: Path) -> bool:
    """Whether a folder holds a database, plain or gzip'd."""
    names = (WORKLOADS_FILE, RECORDS_FILE)
    return any((folder / f"{name}{end}").exists() for name in names for end in ("", ".gz"))


def database_files(folder: Path) -> tuple[Path, Path]:
    """Returns the files of workloads and of records, plain or gzip'd.

    Raises:
        RecordError: One is missing.
    """
    workloads, records = (_plain_or_packed(folder, name) for name in (WORKLOADS_FILE, RECORDS_FILE))
    return workloads, records


def parse_trace_lines(lines: Iterable[bytes], skeletons: Skeletons) -> list[Trace]:
    """Returns the traces of lines of records.

    Args:
        lines: As TVM's database has them.
        skeletons: Those of earlier traces; instructions are read once.

    Raises:
        RecordError: A line is no record.
    """
    return [skeletons.parse(parse_record_line(line).trace) for line in lines]


class ParsedRecord(NamedTuple):
    """A parsed line of a database's file of records.

    Attributes:
        workload: Position of the workload among the database's.
        trace: JSON form.
        seconds: As measured; none where the line has none.
        target: TVM target; empty where the line does not say it.
    """

    workload: int
    trace: Any
    seconds: list[float]
    target: str


def parse_record_line(line: bytes) -> ParsedRecord:
    """Reads a line of records, but does not parse its trace.

    Raises:
        RecordError: It is none; the message says what was expected.
    """
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"not JSON ({error})") from error
    match data:
        case [int(workload), [trace, seconds, target, list() | None]]:
            pass
        case _:
            raise RecordError("expected [workload, [trace, seconds, target, arguments]]")
    measured = [] if seconds is None else seconds
    if not isinstance(measured, list) or not all(type(s) in (int, float) for s in measured):
        raise RecordError('field "seconds": not numbers')
    if not isinstance(target, dict | str | None):
        raise RecordError(f'field "target": found {str(target)[:40]}, expected an object')
    return ParsedRecord(workload, trace, measured, _target_text(target))


def _target_text(target: dict[str, Any] | str | None) -> str:
    """A target as text; empty where the record does not say it."""
    if isinstance(target, dict):
        return orjson.dumps(target, option=orjson.OPT_SORT_KEYS).decode()
    return target or ""


def iterate_workloads(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yields `file:line`, the key and the module of each workload of a database.

    Raises:
        RecordError: The folder holds no database, or a line is no workload. None is skipped, for
            records refer to workloads by their line; only a last line that was cut off is left out.
    """
    path = _plain_or_packed(folder, WORKLOADS_FILE)
    try:
        for number, line in every_line(path):
            where = f"{path}:{number}"
            try:
                found = _parse_workload_line(line, where)
            except RecordError:
                if line.endswith(b"\n"):
                    raise
                return
            yield where, *found
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
    folder: Path, graphs: Mapping[str, ComputeGraph], summary: LogSummary, *, target: str = ""
) -> Iterator[Record]:
    """Streams the records of a database, plain or gzip'd; skips and counts what does not parse.

    Args:
        folder: Folder of the database.
        graphs: Graphs by workload key; of other workloads the steps are what a trace says alone.
        summary: Counts what is read and what is skipped.
        target: Target of records that do not say theirs; empty where it is unknown.

    Raises:
        RecordError: The folder holds no database, or none of its records can be read.
    """
    keys = [key for _, key, _ in iterate_workloads(folder)]
    path = _plain_or_packed(folder, RECORDS_FILE)
    graphs = {key: graphs.get(key) or shape_only_graph(key) for key in keys}
    parse = partial(_parse_record, keys=keys, graphs=graphs, target=target)
    yield from iterate_parsed(path, parse, summary)


def _parse_record(
    line: bytes, keys: list[str], graphs: Mapping[str, ComputeGraph], target: str
) -> Record:
    parsed = parse_record_line(line)
    if not 0 <= parsed.workload < len(keys):
        raise RecordError(f"workload {parsed.workload}, expected one below {len(keys)}")
    graph = graphs[keys[parsed.workload]]
    # A trace alone need not say all that it refers to.
    return record_of_line(parsed, graph, target, _take_no_notice if graph.shape_only else None)


def _take_no_notice(_: RecordError) -> None:
    pass


def record_of_line(
    parsed: ParsedRecord, graph: ComputeGraph, target: str, unread: Unread | None = None
) -> Record:
    """Converts a parsed line to a record.

    Args:
        parsed: The line.
        graph: Compute graph of its workload.
        target: Target of a record that does not say its own.
        unread: As for `translate_traces`.

    Raises:
        RecordError: The trace is not one of the workload.
    """
    return Record(
        workload_key=graph.workload_key,
        target=parsed.target or target,
        task=TaskDetails(None, ()),
        steps=next(translate_traces([parse_trace(parsed.trace)], graph, unread)),
        costs=tuple(parsed.seconds),
        error_code=int(math.isinf(latency_of_costs(parsed.seconds))),
        measure_seconds=0.0,
        timestamp=0,
        version=TRANSLATED,
    )


def _plain_or_packed(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise RecordError(f"{folder / name}: no such file, expected a log or a MetaSchedule database")
