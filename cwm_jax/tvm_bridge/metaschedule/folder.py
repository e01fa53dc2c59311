"""The folder of a MetaSchedule search: TVM's own JSON database, and the same trials as records.

The records (`records.jsonl` with its programs beside it) are what training reads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.errors import RecordError
from cwm_jax.files import write_atomically
from cwm_jax.records.ansor_log import LogSummary, append_records, load_records
from cwm_jax.records.metaschedule_database import RECORDS_FILE, WORKLOADS_FILE
from cwm_jax.records.record import Record
from cwm_jax.tvm_bridge.metaschedule.intrinsics import load_intrinsics
from cwm_jax.tvm_bridge.metaschedule.records import FAILED_SECONDS

SEARCH_RECORDS = "records.jsonl"
"""In the folder of a search: its trials as records."""


class SearchFolder:
    """The files of a search.

    Args:
        tvm: A TVM with MetaSchedule.
        folder: Made if it is missing.
    """

    def __init__(self, tvm: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ms = tvm.s_tir.meta_schedule
        self.folder, self.records = folder, folder / SEARCH_RECORDS
        if self.records.exists():
            _cut_to_common_lines(self.records, folder / RECORDS_FILE)
        self.database = self._ms.database.JSONDatabase(
            str(folder / WORKLOADS_FILE), str(folder / RECORDS_FILE)
        )

    def earlier(self, workload_keys: Sequence[str], target: str) -> list[Record]:
        """Reads the trials of a search that is resumed.

        Raises:
            RecordError: The folder holds another workload's or target's.
        """
        if not self.records.exists():
            return []
        found = load_records(self.records, summary=LogSummary())
        for record in found:
            if record.workload_key not in workload_keys or record.target != target:
                raise RecordError(
                    f"{self.records}: cannot resume, it holds {record.workload_key} on "
                    f"{record.target}, expected {' or '.join(workload_keys)} on {target}"
                )
        return found

    def append(
        self, workload: Any, target: Any, candidates: Sequence[Any], records: Sequence[Record]
    ) -> None:
        """Appends the trials of a round to both files."""
        for candidate, record in zip(candidates, records, strict=True):
            seconds = record.costs if record.valid else (FAILED_SECONDS,)
            self.database.commit_tuning_record(
                self._ms.database.TuningRecord(
                    candidate.sch.trace, workload, list(seconds), target, candidate.args_info
                )
            )
        append_records(self.records, records)


def _cut_to_common_lines(*paths: Path) -> None:
    """Drops what only one of two files has: a kill may come between them, or within a line."""
    lines = [path.read_bytes().splitlines(keepends=True) for path in paths if path.exists()]
    common = min(sum(line.endswith(b"\n") for line in found) for found in lines)
    for path, found in zip(paths, lines, strict=False):
        if len(found) > common:
            write_atomically(path, b"".join(found[:common]))


def search_records(folder: Path) -> list[Record]:
    """Returns all trials of a search, in the order of its database's lines."""
    return load_records(folder / SEARCH_RECORDS, summary=LogSummary())


def line_of(folder: Path, record: Record) -> bytes:
    """Returns the first line of a program in a search's database.

    Args:
        folder: Of the search.
        record: Of the program.
    """
    program = record.workload_key, record.steps
    known = [(record.workload_key, record.steps) for record in search_records(folder)]
    return (folder / RECORDS_FILE).read_bytes().splitlines()[known.index(program)]


def tuning_record_of(tvm: Any, folder: Path, line: bytes) -> Any:
    """Returns the `TuningRecord` of a line in a search's database."""
    load_intrinsics()  # a trace may name some
    databases = tvm.s_tir.meta_schedule.database
    at, fields = orjson.loads(line)
    module = orjson.loads((folder / WORKLOADS_FILE).read_bytes().splitlines()[at])
    return databases.TuningRecord.from_json(fields, databases.Workload.from_json(module))
