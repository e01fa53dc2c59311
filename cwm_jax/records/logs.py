"""Reads tuning logs of either engine: files of JSON lines, and folders of databases."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from cwm_jax.errors import RecordError
from cwm_jax.records.ansor_log import parse_line
from cwm_jax.records.graph import ComputeGraph, load_graphs
from cwm_jax.records.lines import LogSummary, iterate_parsed
from cwm_jax.records.metaschedule.database import iterate_database
from cwm_jax.records.record import Record
from cwm_jax.records.steps import Step


def iterate_records(
    path: Path, summary: LogSummary, graphs: Mapping[str, ComputeGraph] | None = None
) -> Iterator[Record]:
    """Streams the records of one log, gzip'd or plain, skipping what does not parse.

    Blank lines, and comments (lines that begin with `#`, as in TVM's own reader), are no records
    and are not counted. A folder is read as a database of MetaSchedule.

    Args:
        path: The log, or a database's folder.
        summary: Counts what is read and what is skipped.
        graphs: Compute graphs of a database's workloads, beside those that lie in its folder.

    Raises:
        RecordError: The file does not exist, is empty, or holds no readable record.
    """
    if path.is_dir():
        known = {**load_graphs(path), **(graphs or {})}
        yield from iterate_database(path, known, summary)
        return
    known_steps: dict[Step, Step] = {}
    for record in iterate_parsed(path, parse_line, summary):
        # Schedules repeat most of their steps: sharing equal ones keeps large logs in memory.
        steps = tuple(known_steps.setdefault(step, step) for step in record.steps)
        yield dataclasses.replace(record, steps=steps)


def load_records(
    *paths: Path | str,
    summary: LogSummary | None = None,
    valid_only: bool = False,
    graphs: Mapping[str, ComputeGraph] | None = None,
) -> list[Record]:
    """Reads the tuning records of logs into memory, in the order of the logs.

    Examples:
        >>> records = load_records("tests/data/measured.jsonl.gz", valid_only=True)
        >>> records[0].engine, records[0].steps[0].kind, records[0].latency < 1
        ('ansor', 'CHW', True)

    Args:
        paths: Logs, gzip'd or plain, and folders of MetaSchedule's databases.
        summary: Counts what is read and skipped. Without one, skipped lines give a warning.
        valid_only: Leaves out failed measurements.
        graphs: Compute graphs of a database's workloads, beside those that lie in its folder.

    Raises:
        RecordError: A log is missing, empty or holds no readable record; or, with
            `valid_only`, the logs hold no valid measurement.
    """
    counts = LogSummary() if summary is None else summary
    records = [record for path in paths for record in iterate_records(Path(path), counts, graphs)]
    if valid_only:
        records = [record for record in records if record.valid]
        if not records:
            names = ", ".join(str(path) for path in paths)
            raise RecordError(f"{names}: holds no valid measurement")
    if summary is None and counts.skipped:
        warnings.warn(str(counts), stacklevel=2)
    return records
