"""Scores of whole logs, streamed to a file: memory stays bounded, and a stopped run goes on.

While it runs, finished chunks lie beside the result:
    .OUT-parts/run.json      what is scored by what
    .OUT-parts/00000000      scores of the first chunk, in the result's own format

On many machines Ray Data distributes the lines, and one actor a device scores them.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from jaxtyping import Float32
from numpy import ndarray

from cwm_jax.errors import CwmError, OutputError, RecordError
from cwm_jax.files import write_atomically
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import parse_line
from cwm_jax.records.graph import ComputeGraph, read_graphs
from cwm_jax.records.lines import LogSummary, in_chunks, prefetched
from cwm_jax.records.logs import iterate_records
from cwm_jax.records.metaschedule.database import database_files
from cwm_jax.records.record import Record

BATCH = 4096
"""Lines that an actor gets at once."""

CHUNK = 16384
"""Records that are held in memory and scored together."""


class _Format(NamedTuple):
    """How scores are written.

    Attributes:
        write: Writes a chunk to a new file.
        join: Joins the chunks to one file.
    """

    write: Callable[[Path, Sequence[Record], Float32[ndarray, "record"]], None]
    join: Callable[[Sequence[Path], Path], None]


def score_logs(
    scorer: Scorer,
    logs: Sequence[Path],
    graphs: Mapping[str, ComputeGraph],
    out: Path,
    *,
    checkpoint: str,
    chunk: int = CHUNK,
    report: Callable[[int], None] = lambda _: None,
) -> LogSummary:
    """Scores every readable record of logs, in order: workload key and score.

    Args:
        scorer: The model.
        logs: Logs, plain or gzip'd, or folders of MetaSchedule's databases.
        graphs: Compute graphs by workload key.
        out: File to write: Parquet if its name ends so, else JSON lines.
        checkpoint: Names the model; a run that was stopped goes on only with the same.
        chunk: Records a chunk.
        report: Called after every chunk with the number of records scored.

    Returns:
        What was read and what was skipped.

    Raises:
        RecordError: A log is missing, empty or holds no readable record.
        CwmError: The folder beside the file holds the parts of another run.
        OutputError: The file cannot be written.
    """
    form = _PARQUET if out.suffix == ".parquet" else _JSON_LINES
    parts = parts_of(out)
    summary = LogSummary()
    try:
        _open_parts(parts, _run_of(logs, checkpoint, chunk))
        records = (record for log in logs for record in iterate_records(log, summary, graphs))
        written: list[Path] = []
        scored = 0
        for number, part in enumerate(prefetched(in_chunks(records, chunk))):
            path = parts / f"{number:08}"
            if not path.exists():
                _write_part(path, part, scorer.score(part, graphs), form)
            written.append(path)
            scored += len(part)
            report(scored)
        joined = parts / "joined"
        form.join(written, joined)
        joined.replace(out)
    except RecordError:
        if not any(path.name.isdigit() for path in parts.iterdir()):
            shutil.rmtree(parts, ignore_errors=True)
        raise
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error})") from error
    shutil.rmtree(parts, ignore_errors=True)
    return summary


def parts_of(out: Path) -> Path:
    """Returns the folder of finished chunks, while a file is written."""
    return out.with_name(f".{out.name}-parts")


def _run_of(logs: Sequence[Path], checkpoint: str, chunk: int) -> dict[str, Any]:
    """What decides the scores; a missing log is reported when it is read."""
    files = [file for log in logs for file in ([*database_files(log)] if log.is_dir() else [log])]
    found = [(file, file.stat() if file.exists() else None) for file in files]
    return {
        "checkpoint": checkpoint,
        "chunk": chunk,
        "logs": [
            [str(log.absolute()), stat.st_size, stat.st_mtime_ns] for log, stat in found if stat
        ],
    }


def _open_parts(parts: Path, run: dict[str, Any]) -> None:
    """Creates the folder of a run, or checks that the one there is of the same run."""
    parts.mkdir(parents=True, exist_ok=True)
    note = parts / "run.json"
    text = orjson.dumps(run)
    if not note.exists():
        write_atomically(note, text)
    elif note.read_bytes() != text:
        raise CwmError(
            f"{parts}: holds the scores of other logs, or by another checkpoint, from a run that "
            "was stopped; repeat that run, or remove the folder"
        )


def _write_part(
    path: Path, records: Sequence[Record], scores: Float32[ndarray, "record"], form: _Format
) -> None:
    unfinished = path.with_suffix(".unfinished")
    form.write(unfinished, records, scores)
    unfinished.replace(path)


def _write_json_lines(
    path: Path, records: Sequence[Record], scores: Float32[ndarray, "record"]
) -> None:
    with path.open("wb") as file:
        for record, score in zip(records, scores.tolist(), strict=True):
            line = {"workload_key": record.workload_key, "score": score}
            file.write(orjson.dumps(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _join_json_lines(parts: Sequence[Path], out: Path) -> None:
    with out.open("wb") as file:
        for part in parts:
            with part.open("rb") as chunk:
                shutil.copyfileobj(chunk, file)


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CwmError("scores as Parquet: pip install 'cwm-jax[parquet]' first") from error
    return pyarrow


def _write_parquet(
    path: Path, records: Sequence[Record], scores: Float32[ndarray, "record"]
) -> None:
    arrow = _arrow()
    keys = arrow.array([record.workload_key for record in records], arrow.string())
    arrow.parquet.write_table(arrow.table({"workload_key": keys, "score": scores}), path)


def _join_parquet(parts: Sequence[Path], out: Path) -> None:
    parquet = _arrow().parquet
    schema = parquet.read_schema(parts[0])
    with parquet.ParquetWriter(out, schema) as writer:
        for part in parts:
            writer.write_table(parquet.read_table(part))


_JSON_LINES = _Format(_write_json_lines, _join_json_lines)
_PARQUET = _Format(_write_parquet, _join_parquet)


class ScoringActor:
    """Scores lines of logs in a process of its own.

    Args:
        checkpoint: Name or folder of the checkpoint, which every machine can read.
        hardware: As for `Scorer.load`.
        graphs: Files of compute graphs.
    """

    def __init__(self, checkpoint: str, hardware: str | None, graphs: Sequence[str]) -> None:
        self._scorer = Scorer.load(checkpoint, hardware)
        self._graphs = {
            key: graph for path in graphs for key, graph in read_graphs(Path(path)).items()
        }

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Returns a row for every line: its workload key and score, or what is wrong with it."""
        records, rows = [], []
        count = len(batch["text"])
        keys, problems = [""] * count, [""] * count
        for row, line in enumerate(batch["text"]):
            try:
                record = parse_line(line)
            except RecordError as error:
                problems[row] = str(error)
                continue
            keys[row] = record.workload_key
            records.append(record)
            rows.append(row)
        scores = np.full(count, np.nan, np.float32)
        scores[rows] = self._scorer.score(records, self._graphs)
        return {"workload_key": keys, "score": scores, "problem": problems}


def score_with_ray(
    logs: Sequence[Path],
    out: Path,
    *,
    checkpoint: str,
    hardware: str | None = None,
    graphs: Sequence[Path] = (),
    actors: int = 1,
    gpus: float = 0,
) -> LogSummary:
    """Scores every line of logs, in order, on the Ray cluster that this process is in.

    Args:
        logs: Ansor logs, plain or gzip'd, which every machine can read.
        out: Folder of Parquet files to write: `workload_key`, `score`, and `problem`, which is
            not empty where a line is no record.
        checkpoint: Name or folder of the checkpoint.
        hardware: As for `Scorer.load`.
        graphs: Files of compute graphs.
        actors: Processes that score at the same time.
        gpus: GPUs of each actor.

    Returns:
        Counts of lines that were scored and skipped.

    Raises:
        CwmError: The `ray` extra is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        raise CwmError("scoring with Ray: pip install 'cwm-jax[ray]' first") from error
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    lines = ray.data.read_text([str(path.absolute()) for path in logs])
    scored = lines.map_batches(
        ScoringActor,
        fn_constructor_args=(
            checkpoint,
            hardware,
            [str(path.absolute()) for path in graphs],
        ),
        batch_size=BATCH,
        concurrency=actors,
        num_gpus=gpus,
    ).materialize()
    scored.write_parquet(str(out.absolute()))
    total = scored.count()
    bad = scored.filter(lambda row: row["problem"] != "")
    summary = LogSummary(records=total - bad.count(), skipped=bad.count())
    summary.problems = [row["problem"] for row in bad.take(20)]
    return summary
