"""Scoring on a real local Ray cluster gives the scores of one process, line by line."""

import gzip

import numpy as np
import pyarrow.parquet
import pytest
import ray

from cwm_jax.ranking.bulk import score_with_ray
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import graphs_beside, load_graphs
from cwm_jax.records.logs import load_records


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_cluster_scores_every_line_in_order(cluster, tmp_path, measured_log):
    lines = gzip.decompress(measured_log.read_bytes()).splitlines()
    lines.insert(7, b"garbage")
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"\n".join(lines) + b"\n")
    graphs = graphs_beside(measured_log)
    summary = score_with_ray(
        [log], tmp_path / "scores", checkpoint="cpu-x86-2core", graphs=[graphs], actors=2
    )
    records = load_records(measured_log)
    assert (summary.records, summary.skipped) == (len(records), 1)
    assert "not JSON" in summary.problems[0]
    table = pyarrow.parquet.read_table(tmp_path / "scores")
    keys = table["workload_key"].to_pylist()
    assert keys.pop(7) == ""
    assert keys == [record.workload_key for record in records]
    scores = np.delete(table["score"].to_numpy(), 7)
    expected = Scorer.load("cpu-x86-2core").score(records, load_graphs(measured_log))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
