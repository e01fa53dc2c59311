"""`cwm score`: record logs in, one score a record out."""

import argparse
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import orjson
from rich.console import Console

from cwm_jax.cli.common import (
    add_checkpoint_options,
    add_json_option,
    load_programs,
    say,
    write_json,
)
from cwm_jax.errors import CwmError
from cwm_jax.records.ansor_log import LogSummary, iterate_records
from cwm_jax.records.record import Record

_CHUNK = 16384


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "score",
        help="score recorded candidates",
        description="Writes a JSON line for each record, in order: workload key and score. "
        "Higher is faster; scores are comparable within a workload.",
    )
    parser.add_argument("records", nargs="+", type=Path, help="Ansor logs, plain or gzip'd")
    parser.add_argument("--out", required=True, type=Path, help="JSON lines to write")
    add_checkpoint_options(parser)
    parser.add_argument("--programs", nargs="*", type=Path, default=[], help="compute graphs")
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Streams records through the scorer."""
    from cwm_jax.ranking.scorer import Scorer

    scorer = Scorer.load(options.checkpoint, options.hardware)
    programs = load_programs(options.records, options.programs)
    summary = LogSummary()
    records = (r for path in options.records for r in iterate_records(path, summary))
    try:
        with tempfile.NamedTemporaryFile(dir=options.out.parent, delete=False) as file:
            try:
                for chunk in _chunks(records):
                    _write_scores(file, chunk, scorer.score(chunk, programs).tolist())
            except BaseException:
                Path(file.name).unlink()
                raise
        Path(file.name).replace(options.out)
    except OSError as error:
        raise CwmError(f"{options.out}: cannot be written ({error})") from error
    say(Console(stderr=True), f"{summary}\nwrote {options.out}")
    write_json(options.json, {"scored": summary.records, "skipped": summary.skipped})
    return 0


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    while chunk := list(islice(records, _CHUNK)):
        yield chunk


def _write_scores(file: IO[bytes], records: list[Record], scores: list[float]) -> None:
    for record, score in zip(records, scores, strict=True):
        line = {"workload_key": record.workload_key, "score": score}
        file.write(orjson.dumps(line) + b"\n")
