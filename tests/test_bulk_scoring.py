"""Scores streamed to a file: the same as in memory, in order, and after a stop."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from cwm_jax.errors import CwmError
from cwm_jax.ranking.bulk import score_logs
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import load_graphs
from cwm_jax.records.lines import prefetched
from cwm_jax.records.logs import load_records


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def scorer():
    return Scorer.load("cpu-x86-2core")


def read(path: Path) -> tuple[list[str], list[float]]:
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        return table["workload_key"].to_pylist(), table["score"].to_pylist()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["workload_key"] for line in lines], [line["score"] for line in lines]


@pytest.mark.parametrize("name", ["scores.parquet", "scores.jsonl"])
def test_a_stopped_run_goes_on(tmp_path, monkeypatch, scorer, measured_log, name):
    records = load_records(measured_log)
    graphs = load_graphs(measured_log)
    out = tmp_path / name
    settings = {"checkpoint": "cpu-x86-2core", "chunk": 50}

    def stop(count: int) -> None:
        if count > 100:
            raise StoppedError

    with pytest.raises(StoppedError):
        score_logs(scorer, [measured_log] * 2, graphs, out, report=stop, **settings)
    assert not out.exists()
    with pytest.raises(CwmError, match="another checkpoint"):
        score_logs(scorer, [measured_log], graphs, out, **settings)

    scored = []
    monkeypatch.setattr(
        scorer, "score", lambda *given: scored.append(len(given[0])) or Scorer.score(scorer, *given)
    )
    summary = score_logs(scorer, [measured_log] * 2, graphs, out, **settings)
    assert summary.records == 2 * len(records)
    assert sum(scored) == 2 * len(records) - 150
    assert [path.name for path in tmp_path.iterdir()] == [name]
    keys, scores = read(out)
    assert keys == [record.workload_key for record in records] * 2
    expected = Scorer.score(scorer, records, graphs)
    np.testing.assert_allclose(scores, np.tile(expected, 2), rtol=1e-4, atol=1e-4)


def test_a_file_that_cannot_be_written_is_an_error(scorer, measured_log):
    with pytest.raises(CwmError, match="cannot be written"):
        score_logs(scorer, [measured_log], {}, Path("/proc/none/scores"), checkpoint="c")


def test_reading_goes_on_while_a_chunk_is_scored():
    seen = []

    def numbers():
        for number in range(4):
            seen.append(number)
            yield [number]

    for at, _ in enumerate(prefetched(numbers())):
        if at == 0:
            first = list(seen)
    assert len(first) >= 1
    assert seen == [0, 1, 2, 3]
