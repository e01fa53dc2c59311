"""Data sets on disk hold what data sets in memory hold."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.errors import CwmError, RecordError
from cwm_jax.features.hardware import load_hardware
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.world_model import ModelConfig, create_model
from cwm_jax.ranking.scorer import BATCH_BUCKETS
from cwm_jax.records.graph import load_graphs
from cwm_jax.records.logs import load_records
from cwm_jax.training.config import TrainingConfig
from cwm_jax.training.dataset import build_dataset
from cwm_jax.training.loop import evaluate_model, train
from cwm_jax.training.streaming import RowFile, stream_dataset

CARD = load_hardware("cpu-x86-2core")
SIZES = ModelConfig(latent_width=8, action_width=8, hardware_width=4, head_width=8)


@pytest.fixture
def file(tmp_path):
    found = RowFile(tmp_path / "rows")
    yield found
    found.close()
    assert not list(tmp_path.iterdir())


@given(st.data())
def test_rows_come_back_as_they_were_written(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("rows") / "rows"
    file = RowFile(path)
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 100, (count, *more)).astype(dtype)
        for count, more, dtype in data.draw(
            st.lists(
                st.tuples(
                    st.integers(0, 5),
                    st.lists(st.integers(0, 3), max_size=2),
                    st.sampled_from(["float32", "int32", "int64"]),
                ),
                max_size=4,
            )
        )
    ]
    for array, found in [(array, file.append(array)) for array in arrays]:
        assert (found.shape, found.dtype, found.ndim) == (array.shape, array.dtype, array.ndim)
        np.testing.assert_array_equal(np.asarray(found), array)
        if len(array):
            rows = rng.integers(0, len(array), 4)
            np.testing.assert_array_equal(found[rows], array[rows])
    file.close()


def test_a_streamed_workload_that_fills_a_batch_is_ranked(file, measured_log):
    records = load_records(measured_log, valid_only=True)
    one = [record for record in records if record.workload_key == records[0].workload_key]
    full = (one * BATCH_BUCKETS[0])[: BATCH_BUCKETS[0]]
    graphs = load_graphs(measured_log)
    in_memory = build_dataset(full, graphs, CARD)
    streamed = stream_dataset(iter(full), graphs, CARD, file)
    model = Ensemble.create(SIZES, 0)
    first, second = (evaluate_model(model, data, list(in_memory)) for data in (in_memory, streamed))
    assert first == second


def test_a_streamed_data_set_trains_to_the_same_losses(file, measured_log):
    records, graphs = load_records(measured_log), load_graphs(measured_log)
    in_memory = build_dataset(records, graphs, CARD)
    streamed = stream_dataset(iter(records), graphs, CARD, file)
    assert streamed.keys() == in_memory.keys()
    config = TrainingConfig(epochs=2, lists=4, candidates=16)
    keys = sorted(in_memory)
    first, second = (
        train(data, keys, keys[:2], lambda seed: create_model(SIZES, seed), 2, config).curves
        for data in (in_memory, streamed)
    )
    assert [line._replace(seconds=0) for line in first] == [
        line._replace(seconds=0) for line in second
    ]


def test_small_chunks_lose_no_record_and_keep_the_labels(file, measured_log):
    records, graphs = load_records(measured_log, valid_only=True), {}
    in_memory = build_dataset(records, graphs, CARD)
    rng = np.random.default_rng(0)
    shuffled = [records[at] for at in rng.permutation(len(records))]
    streamed = stream_dataset(iter(shuffled), graphs, CARD, file, chunk=23)
    assert len(streamed) > len(in_memory)
    for key, whole in in_memory.items():
        parts = [part for part in streamed.values() if part.key == key]
        found = np.concatenate([part.throughput for part in parts])
        # One record at most is left over when the log ends.
        assert len(whole.throughput) - 1 <= len(found) <= len(whole.throughput)
        if len(found) == len(whole.throughput):
            np.testing.assert_allclose(np.sort(found), np.sort(whole.throughput), rtol=1e-6)


def test_nothing_to_rank_and_no_place_are_errors(tmp_path, file, measured_log):
    record = load_records(measured_log)[0]
    with pytest.raises(RecordError, match="nothing to rank"):
        stream_dataset([record, dataclasses.replace(record, error_code=1)], {}, CARD, file)
    with pytest.raises(CwmError, match="cannot be written"):
        RowFile(tmp_path / "none" / "rows")


def test_cwm_train_streams(tmp_path, measured_log):
    shutil.copy(measured_log, tmp_path / "log.jsonl.gz")
    out, work = tmp_path / "checkpoint", tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "cwm_jax.cli.main", "train", str(tmp_path / "log.jsonl.gz")]
    command += ["--hardware", "cpu-x86-2core", "--epochs", "1", "--out", str(out)]
    command += ["--stream", str(work), "--tensorboard", str(tmp_path / "events")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "card.json").exists()
    assert not list(work.iterdir())
    assert sum(path.stat().st_size for path in (tmp_path / "events").iterdir()) > 100
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == [
        "checkpoint",
        "events",
        "log.jsonl.gz",
        "work",
    ]
