"""Training on records that were really measured: it learns, and never sees its test."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.cli.common import load_programs
from cwm_jax.errors import RecordError
from cwm_jax.evaluation.metrics import mean_metrics, rank_metrics
from cwm_jax.features.hardware import load_hardware
from cwm_jax.model.config import ModelConfig
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import load_records
from cwm_jax.training.config import TrainingConfig
from cwm_jax.training.dataset import batches, build_dataset, split_workloads
from cwm_jax.training.loop import train
from cwm_jax.training.losses import listwise_loss, pairwise_loss

CARD = load_hardware("cpu-x86-2core")
CONFIG = TrainingConfig(epochs=80, lists=4, candidates=32, weight_decay=0.01)
SMALL = ModelConfig(latent_width=32, action_width=32, hardware_width=4, head_width=32)


@pytest.fixture(scope="module")
def dataset(measured_log):
    return build_dataset(load_records(measured_log), load_programs([measured_log], []), CARD)


def test_a_tiny_run_learns_and_beats_random_ranking(dataset):
    keys = sorted(dataset)
    held_out = [key for key in keys if '["matmul", 256' in key]
    training = [key for key in keys if key not in held_out]
    trained = train(dataset, training, [], SMALL, CONFIG)
    losses = [epoch.loss for epoch in trained.curves]
    assert losses[-1] < 0.7 * losses[0]
    scorer = Scorer(trained.model, CARD)

    def quality(names):
        return mean_metrics(
            [
                rank_metrics(
                    scorer.rank_arrays(dataset[key].program, dataset[key].steps).score,
                    dataset[key].latencies,
                )
                for key in names
            ]
        )

    assert quality(training).pairwise > 0.75
    # A workload it has never seen: random ranking has 0.5 and 0.
    unseen = quality(held_out)
    assert unseen.pairwise > 0.6
    assert unseen.spearman > 0.25


def test_a_run_repeats_under_its_seed(dataset):
    short = dataclasses.replace(CONFIG, epochs=2)
    keys = sorted(dataset)[:3]
    first, second = (train(dataset, keys, keys, SMALL, short).curves for _ in range(2))
    assert [epoch._replace(seconds=0) for epoch in first] == [
        epoch._replace(seconds=0) for epoch in second
    ]


def test_early_stopping_keeps_the_best_epoch(dataset):
    keys = sorted(dataset)
    config = dataclasses.replace(CONFIG, epochs=12, patience=2)
    trained = train(dataset, keys[1:], keys[:1], SMALL, config)
    quality = [epoch.top1 + epoch.top5 + epoch.pairwise for epoch in trained.curves]
    assert trained.best_epoch == int(np.argmax(quality)) + 1
    assert len(quality) <= trained.best_epoch + 2


def test_every_record_is_seen_once_an_epoch(dataset):
    seen = []
    for batch in batches(
        list(dataset.values()), lists=3, candidates=16, rng=np.random.default_rng(0)
    ):
        assert batch.valid.shape == (3, 16)
        assert batch.schedules.kind.shape[:2] == (3, 16)
        assert (batch.throughput[batch.valid] > 0).all()
        assert not batch.throughput[~batch.valid].any()
        seen.extend(batch.throughput[batch.valid].tolist())
    expected = np.concatenate([workload.throughput for workload in dataset.values()])
    assert sorted(seen) == sorted(expected.tolist())


@given(st.sets(st.text(min_size=1), min_size=1, max_size=40), st.integers(0, 5))
def test_split_is_a_partition_that_ignores_the_other_workloads(keys, seed):
    ordered = sorted(keys)
    split = split_workloads(ordered, validation=0.2, test=0.2, seed=seed)
    assert sorted([*split.train, *split.validation, *split.test]) == ordered
    alone = split_workloads(ordered[:1], validation=0.2, test=0.2, seed=seed)
    for part, part_alone in zip(split, alone, strict=True):
        assert (ordered[0] in part) == (ordered[0] in part_alone)


def test_losses_prefer_the_right_order_and_ignore_padding():
    throughput = np.array([[1.0, 0.5, 0.2, 0.0]], np.float32)
    valid = np.array([[True, True, True, False]])
    good, bad = np.array([[3.0, 1.0, -1.0, 9.0]]), np.array([[-1.0, 1.0, 3.0, 9.0]])
    for loss in (pairwise_loss, lambda s, t, v: listwise_loss(s, t, v, 0.1)):
        assert loss(good, throughput, valid) < loss(bad, throughput, valid)
        padding_changed = good.copy()
        padding_changed[0, 3] = -50
        assert loss(good, throughput, valid) == loss(padding_changed, throughput, valid)


def test_nothing_to_rank_is_an_error(measured_log):
    with pytest.raises(RecordError, match="nothing to rank"):
        build_dataset(load_records(measured_log)[:1], {}, CARD)
