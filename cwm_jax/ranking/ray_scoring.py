"""Scores logs on many machines: Ray Data distributes the lines, one actor a device scores them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.errors import CwmError, RecordError
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import parse_line
from cwm_jax.records.graph import read_graphs
from cwm_jax.records.lines import LogSummary

BATCH = 4096
"""Lines that an actor gets at once."""


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
        gpus: Of each.

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
