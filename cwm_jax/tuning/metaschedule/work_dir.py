"""The folder of a MetaSchedule search: TVM's own JSON database, and the same trials as records.

The database is what a search goes on from, whoever wrote it: this package, or `tune_tir` and
`tune_relax` of TVM, perhaps for other workloads, too. Lines are added to it and none is changed.
The records (`records.jsonl` with its compute graphs beside it) are what training reads.
"""

import importlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cwm_jax.errors import RecordError
from cwm_jax.files import append_lines, keep_copy, write_atomically
from cwm_jax.records.ansor_log import append_records
from cwm_jax.records.graph import ComputeGraph, add_graphs, graphs_path
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.records.metaschedule.database import (
    RECORDS_FILE,
    WORKLOADS_FILE,
    ParsedRecord,
    iterate_workloads,
    parse_record_line,
    record_of_line,
)
from cwm_jax.records.record import Record
from cwm_jax.tvm_bridge.metaschedule.builder import load_intrinsics
from cwm_jax.tvm_bridge.metaschedule.graphs import warn_of_traces
from cwm_jax.tvm_bridge.metaschedule.traces import FAILED_SECONDS, Entry, database_lines

SEARCH_RECORDS = "records.jsonl"
"""In the folder of a search: its trials as records."""

_TELLS_NOTHING = ("host", "tag", "keys", "libs")
"""What two targets of one device may say differently."""
_NAMES_OF_FUNCTION = ("global_symbol", "tirx.noalias", "tir.noalias")
"""Attributes of a function that are nothing to its schedules."""


class SearchedModule(NamedTuple):
    """What is searched.

    Attributes:
        module: `tvm.IRModule` of one function, `main`.
        graph: The same.
    """

    module: Any
    graph: ComputeGraph


class _Line(NamedTuple):
    """A record of a database: its line, and what that says."""

    text: bytes
    parsed: ParsedRecord


class SearchFolder:
    """The files of a search.

    Args:
        tvm: A TVM with MetaSchedule.
        folder: Made if it is missing.

    Attributes:
        database: A `MemoryDatabase` of the records of its tasks, for TVM.
    """

    def __init__(self, tvm: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._tvm, self._ms = tvm, tvm.s_tir.meta_schedule
        self.folder, self.records = folder, folder / SEARCH_RECORDS
        self.database = self._ms.database.MemoryDatabase("structural")
        self._workloads, self._trials = folder / WORKLOADS_FILE, folder / RECORDS_FILE
        self._positions: dict[str, int] = {}
        self._lines: dict[tuple[str, Any], bytes] = {}

    def earlier(self, tasks: Sequence[SearchedModule], target: Any) -> list[Record]:
        """Reads the trials of a search that is resumed, and makes its files ready for more.

        Files that a kill left unfinished are mended; a copy of each is kept.

        Args:
            tasks: The tasks to search.
            target: TVM target.

        Raises:
            RecordError: The folder holds trials, but none of these tasks on this target, or its
                files cannot be gone on with.
        """
        self._refuse_packed()
        own = self._own_records()
        lines = self._read_lines()
        self._positions = self._find(tasks, {line.parsed.workload for line in lines})
        records: list[Record] = []
        untold = 0
        for task in tasks:
            position = self._positions.get(task.graph.workload_key)
            if position is None:
                continue
            workload = self.database.commit_workload(task.module)
            for line in lines:
                said = line.parsed.target
                if line.parsed.workload != position or not self._is_target(said, target):
                    continue
                untold += not said
                record = self._record(line, task.graph, str(target))
                if record is not None and self._commit(line, workload, target):
                    records.append(record)
                    self._lines.setdefault((record.workload_key, record.steps), line.text)
        if lines and not records:
            raise RecordError(self._refusal(lines, tasks, target))
        if untold:
            warnings.warn(
                f"{self._trials}: {untold} records do not say their target, and are taken for "
                f"those of {target}",
                stacklevel=2,
            )
        for path in (self._workloads, self._trials, self.records):
            _end_last_line(path)
        add_graphs([task.graph for task in tasks], graphs_path(self.records))
        missing = Counter(map(_identity, records)) - Counter(map(_identity, own))
        added: list[Record] = []
        for record in records:
            if missing[_identity(record)] > 0:
                missing[_identity(record)] -= 1
                added.append(record)
        append_records(self.records, added)
        return records

    def append(
        self, workload: Any, target: Any, candidates: Sequence[Any], records: Sequence[Record]
    ) -> None:
        """Appends the trials of a round to both files.

        Args:
            workload: `database.Workload` of all candidates.
            target: TVM target.
            candidates: `MeasureCandidate`s.
            records: The same as records.
        """
        if not records:
            return
        entries = [
            Entry(
                candidate.sch.trace,
                record.costs if record.valid else (FAILED_SECONDS,),
                candidate.args_info,
            )
            for candidate, record in zip(candidates, records, strict=True)
        ]
        position = self._position(workload, records[0].workload_key)
        written = database_lines(self._tvm, workload.mod, target, entries)
        lines = [b"[%d,%b" % (position, line.partition(b",")[2]) for line in written]
        append_lines(self._trials, lines)
        append_records(self.records, records)
        for (trace, seconds, arguments), record, line in zip(entries, records, lines, strict=True):
            self.database.commit_tuning_record(
                self._ms.database.TuningRecord(trace, workload, list(seconds), target, arguments)
            )
            self._lines.setdefault((record.workload_key, record.steps), line)

    def candidate(self, record: Record) -> Any:
        """Returns the `MeasureCandidate` of a program of the search."""
        line = self._lines[record.workload_key, record.steps]
        return tuning_record_of(self._tvm, self.folder, line).as_measure_candidate()

    def _refuse_packed(self) -> None:
        for path in (self._workloads, self._trials):
            packed = path.with_name(f"{path.name}.gz")
            if packed.exists() and not path.exists():
                raise RecordError(f"{packed}: cannot be added to, unpack it by `gunzip` first")

    def _own_records(self) -> list[Record]:
        """What `records.jsonl` holds; nothing if a kill left no more than the start of a line."""
        if not self.records.exists():
            return []
        text = self.records.read_bytes()
        if not text.strip() or (b"\n" not in text and text.startswith(b'{"i"')):
            return []
        return load_records(self.records, summary=LogSummary())

    def _read_lines(self) -> list[_Line]:
        """The records of the database; those that cannot be read stay, and are no trials."""
        found: list[_Line] = []
        if not self._trials.exists():
            return found
        summary = LogSummary()
        *whole, last = self._trials.read_bytes().split(b"\n")
        for number, text in enumerate([*whole, last], start=1):
            if not text.strip():
                continue
            try:
                found.append(_Line(text, parse_record_line(text)))
            except RecordError as error:
                if number <= len(whole):
                    summary.skip(f"{self._trials}:{number}: {error}")
        if summary.skipped:
            warnings.warn(
                f"{self._trials}: {summary.skipped} lines cannot be read and are no trials of "
                f"the search (first: {summary.problems[0]})",
                stacklevel=3,
            )
        return found

    def _find(self, tasks: Sequence[SearchedModule], used: set[int]) -> dict[str, int]:
        """Positions of the tasks among the database's workloads, by workload key.

        Of several that are alike, those that records refer to come first.
        """
        if not self._workloads.exists():
            return {}
        known = list(iterate_workloads(self.folder))
        order = sorted(range(len(known)), key=lambda at: at not in used)
        found: dict[str, int] = {}
        for task in tasks:
            same = [at for at in order if known[at][1] == task.graph.workload_key]
            if not same:
                same = [at for at in order if self._is_like(known[at], task.module)]
            if same:
                found[task.graph.workload_key] = same[0]
        return found

    def _is_like(self, known: tuple[str, str, str], module: Any) -> bool:
        """Whether a workload is a module, but for what its function is called."""
        _, key, text = known
        equal: Callable[[Any, Any], bool] = importlib.import_module("tvm_ffi").structural_equal
        try:
            theirs = self._ms.database.Workload.from_json([key, text]).mod
            return bool(equal(_nameless(theirs), _nameless(module)))
        except Exception:  # whatever TVM says of a module that another version of it wrote
            return False

    def _is_target(self, said: str, target: Any) -> bool:
        if not said:
            return True
        try:
            theirs = orjson.loads(str(self._tvm.target.Target(_as_target(said))))
        except Exception:  # TVM raises what its parser meets
            return False
        mine = orjson.loads(str(target))
        return _told_apart(theirs) == _told_apart(mine)

    def _record(self, line: _Line, graph: ComputeGraph, target: str) -> Record | None:
        try:
            # As TVM writes the target now: what it was written as may differ.
            parsed = line.parsed._replace(target=target)
            return record_of_line(parsed, graph, target, partial(warn_of_traces, graph))
        except RecordError as error:
            warn_of_traces(graph, error)
            return None

    def _commit(self, line: _Line, workload: Any, target: Any) -> bool:
        """Lets the database know a record; not one that TVM does not read."""
        databases = self._ms.database
        load_intrinsics()  # a trace may name some
        try:
            found = databases.TuningRecord.from_json(orjson.loads(line.text)[1], workload)
            seconds = list(line.parsed.seconds) or [FAILED_SECONDS]
            self.database.commit_tuning_record(
                databases.TuningRecord(
                    found.trace, workload, seconds, target, found.as_measure_candidate().args_info
                )
            )
        except Exception as error:  # whatever TVM says of a trace that does not apply
            text = (str(error).strip().splitlines() or [""])[-1]
            warnings.warn(
                f"{self._trials}: a trial of {workload.shash} cannot be applied and is left out "
                f"({text})",
                stacklevel=3,
            )
            return False
        return True

    def _refusal(self, lines: Sequence[_Line], tasks: Sequence[SearchedModule], target: Any) -> str:
        keys = [key for _, key, _ in iterate_workloads(self.folder)]
        ours = {*self._positions.values()}
        mine = [line for line in lines if line.parsed.workload in ours]
        shown = (mine or lines)[0].parsed
        at, said = shown.workload, shown.target or "an unknown target"
        expected = " or ".join([task.graph.workload_key for task in tasks][:3])
        advice = (
            f"give --target '{said}' to go on with it"
            if mine
            else "name another folder by --log to begin anew"
        )
        return (
            f"{self._trials}: cannot resume, it holds {len({*keys})} workloads, such as "
            f"{keys[at] if 0 <= at < len(keys) else at} on {said}, expected {expected} on "
            f"{target}; {advice}"
        )

    def _position(self, workload: Any, key: str) -> int:
        """Where a workload stands in the database's file, which it is added to if need be."""
        if key not in self._positions:
            known = self._workloads.read_bytes() if self._workloads.exists() else b""
            self._positions[key] = len(known.splitlines())
            shash, module = workload.as_json()
            append_lines(self._workloads, [orjson.dumps([str(shash), str(module)])])
        return self._positions[key]


def _nameless(module: Any) -> Any:
    (function,) = module.functions.values()
    for name in _NAMES_OF_FUNCTION:
        if function.attrs and name in function.attrs:
            function = function.without_attr(name)
    return function


def _as_target(said: str) -> Any:
    return orjson.loads(said) if said.startswith("{") else said


def _told_apart(target: dict[str, Any]) -> dict[str, Any]:
    return {
        name: sorted(value) if isinstance(value, list) else value
        for name, value in target.items()
        if name not in _TELLS_NOTHING
    }


def _identity(record: Record) -> tuple[str, tuple[float, ...]]:
    """Returns what identifies a trial; how its trace is read may change with the version."""
    return record.workload_key, record.costs


def _end_last_line(path: Path) -> None:
    """Lets a file end with a whole line, so that lines can be added.

    One that was cut off is taken away, and a copy of the file as it was is kept: TVM reads no
    database that holds half a line.
    """
    text = path.read_bytes() if path.exists() else b""
    if not text or text.endswith(b"\n"):
        return
    start = text.rfind(b"\n") + 1
    try:
        orjson.loads(text[start:])
    except orjson.JSONDecodeError:
        copy = keep_copy(path)
        write_atomically(path, text[:start])
        warnings.warn(
            f"{path}: its last line was cut off and is left out; {copy} is as it was", stacklevel=3
        )
    else:
        append_lines(path, [])


def search_records(folder: Path) -> list[Record]:
    """Returns all trials of a search, in the order measured."""
    return load_records(folder / SEARCH_RECORDS, summary=LogSummary())


def line_of(folder: Path, record: Record) -> bytes:
    """Returns the first line of a program in a search's database.

    Args:
        folder: Folder of the search.
        record: Record of the program.
    """
    trials = search_records(folder)
    first = next(
        at
        for at, known in enumerate(trials)
        if (known.workload_key, known.steps) == (record.workload_key, record.steps)
    )
    # A trial is known by what was measured, which is the same in both files.
    costs = trials[first].costs
    earlier = sum(known.costs == costs for known in trials[:first])
    same: list[bytes] = []
    for line in (folder / RECORDS_FILE).read_bytes().splitlines():
        try:
            if tuple(parse_record_line(line).seconds) == costs:
                same.append(line)
        except RecordError:
            continue
    if not same:
        raise RecordError(f"{folder / RECORDS_FILE}: holds no trial of {record.workload_key}")
    return same[min(earlier, len(same) - 1)]


def tuning_record_of(tvm: Any, folder: Path, line: bytes) -> Any:
    """Returns the `TuningRecord` of a line in a search's database."""
    load_intrinsics()  # a trace may name some
    databases = tvm.s_tir.meta_schedule.database
    at, fields = orjson.loads(line)
    module = orjson.loads((folder / WORKLOADS_FILE).read_bytes().splitlines()[at])
    return databases.TuningRecord.from_json(fields, databases.Workload.from_json(module))
