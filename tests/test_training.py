"""Training on records that were really measured: it learns, and never sees its test."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.bench.baselines import SequenceModel
from cwm_jax.errors import RecordError
from cwm_jax.features.graph import pad_slots
from cwm_jax.features.hardware import load_hardware
from cwm_jax.model.world_model import (
    TARGET_WIDTH,
    ModelConfig,
    WorldModel,
    create_model,
    to_schedules,
)
from cwm_jax.ranking.metrics import mean_metrics, rank_metrics
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import load_graphs
from cwm_jax.records.logs import load_records
from cwm_jax.records.store_features import STORE_WIDTH
from cwm_jax.training.batching import EpochBatches, load_batches
from cwm_jax.training.config import TrainingConfig
from cwm_jax.training.dataset import (
    absorb_scale,
    alignment_target,
    build_dataset,
    scale_of_values,
    split_workloads,
    teach,
)
from cwm_jax.training.loop import train
from cwm_jax.training.losses import alignment_loss, distillation_loss, listwise_loss, pairwise_loss

CARD = load_hardware("cpu-x86-2core")
CONFIG = TrainingConfig(epochs=80, lists=4, candidates=32, weight_decay=0.01)
SMALL = ModelConfig(latent_width=32, action_width=32, hardware_width=4, head_width=32)


def create_small(seed: int) -> WorldModel:
    return create_model(SMALL, seed)


@pytest.fixture(scope="module")
def dataset(measured_log):
    return build_dataset(load_records(measured_log), load_graphs(measured_log), CARD)


def test_a_tiny_run_learns_and_beats_random_ranking(dataset):
    keys = sorted(dataset)
    held_out = [key for key in keys if '["matmul", 256' in key]
    training = [key for key in keys if key not in held_out]
    trained = train(dataset, training, [], create_small, 1, CONFIG)
    losses = [epoch.loss for epoch in trained.curves]
    assert losses[-1] < 0.7 * losses[0]
    scorer = Scorer(trained.model, CARD)

    def quality(names):
        return mean_metrics(
            [
                rank_metrics(
                    scorer.rank_arrays(dataset[key].graph, dataset[key].steps).score,
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
    first, second = (train(dataset, keys, keys, create_small, 2, short).curves for _ in range(2))
    assert [epoch._replace(seconds=0) for epoch in first] == [
        epoch._replace(seconds=0) for epoch in second
    ]


def test_watched_workloads_decide_nothing(dataset):
    keys = sorted(dataset)
    short = dataclasses.replace(CONFIG, epochs=2)
    losses = [
        [epoch.loss for epoch in train(dataset, keys[1:], watched, create_small, 2, short).curves]
        for watched in (keys[:1], [])
    ]
    assert losses[0] == losses[1]


def test_every_record_is_seen_once_an_epoch(dataset):
    seen = []
    for batch in load_batches(
        EpochBatches(list(dataset.values()), lists=3, candidates=16, rng=np.random.default_rng(0))
    ):
        assert batch.valid.shape == (3, 16)
        assert batch.schedules.kind.shape[:2] == (3, 16)
        assert (batch.throughput[batch.valid] > 0).all()
        assert not batch.throughput[~batch.valid].any()
        seen.extend(batch.throughput[batch.valid].tolist())
    expected = np.concatenate([workload.throughput for workload in dataset.values()])
    assert sorted(seen) == sorted(expected.tolist())


def test_an_epoch_goes_on_in_its_middle(dataset):
    epoch = EpochBatches(
        list(dataset.values()), lists=2, candidates=8, rng=np.random.default_rng(1)
    )
    expected = [epoch[at].throughput.tolist() for at in range(len(epoch))]
    assert len(expected) > 2
    for start in (0, 1, len(epoch) - 1, len(epoch)):
        rest = [batch.throughput.tolist() for batch in load_batches(epoch, start)]
        assert rest == expected[start:]


def test_sizes_that_fill_no_batch_are_padded_to_the_next(dataset):
    """A larger program in between changes no list's order, only what it is padded to."""
    small = list(dataset.values())
    large = dataclasses.replace(
        small[0],
        graph=pad_slots(small[0].graph, 16),
        steps=dataclasses.replace(small[0].steps, slots=16),
    )
    model = create_small(0)

    def shapes_and_scores(workloads, lists):
        found = {}
        rng = np.random.default_rng(0)
        for batch in load_batches(EpochBatches(workloads, lists=lists, candidates=64, rng=rng)):
            assert batch.graphs.present.shape[1] >= batch.schedules.stage.max() + 1
            ranking = jax.vmap(model.rank)(batch.graphs, batch.schedules, batch.hardware)
            for row, position in enumerate(batch.workload):
                if batch.valid[row].any():
                    found.setdefault(int(position), []).append(
                        np.sort(ranking.score[row][batch.valid[row]])
                    )
        return batch.graphs.present.shape[1], found

    slots, alone = shapes_and_scores(small, 1)
    assert slots == 8
    slots, together = shapes_and_scores([*small, large], len(small) + 1)
    assert slots == 16
    for position, scores in alone.items():
        for one, other in zip(scores, together[position], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@given(st.sets(st.text(min_size=1), min_size=1, max_size=40), st.integers(0, 5))
def test_split_is_a_partition_that_ignores_the_other_workloads(keys, seed):
    ordered = sorted(keys)
    split = split_workloads(ordered, test=0.2, seed=seed)
    assert sorted([*split.train, *split.test]) == ordered
    alone = split_workloads(ordered[:1], test=0.2, seed=seed)
    for part, part_alone in zip(split, alone, strict=True):
        assert (ordered[0] in part) == (ordered[0] in part_alone)


def test_losses_prefer_the_right_order_and_ignore_padding():
    throughput = np.array([[1.0, 0.5, 0.2, 0.0]], np.float32)
    valid = np.array([[True, True, True, False]])
    good, bad = np.array([[3.0, 1.0, -1.0, 9.0]]), np.array([[-1.0, 1.0, 3.0, 9.0]])
    emphasis = np.ones(1, np.float32)
    for loss in (pairwise_loss, lambda s, t, v, e: listwise_loss(s, t, v, 0.1, e)):
        assert loss(good, throughput, valid, emphasis) < loss(bad, throughput, valid, emphasis)
        padding_changed = good.copy()
        padding_changed[0, 3] = -50
        known = loss(good, throughput, valid, emphasis)
        assert known == loss(padding_changed, throughput, valid, emphasis)
        both = np.concatenate([good, bad])
        twice = (np.tile(throughput, (2, 1)), np.tile(valid, (2, 1)))
        assert loss(both, *twice, np.array([1.0, 0.0])) == pytest.approx(known)


def test_a_model_takes_the_scale_of_its_inputs_over(dataset):
    """Ranked as they are, values score as they did when scaled, by each kind of model."""
    workload = next(iter(dataset.values()))
    scale = scale_of_values(list(dataset.values()))
    assert scale.max() > 2
    schedules = to_schedules(workload.steps)
    scaled = schedules._replace(values=schedules.values * scale)
    models = [create_small(0), SequenceModel("bag", SMALL, rngs=nnx.Rngs(0))]
    for model in models:
        expected = model.rank(workload.graph, scaled, workload.hardware).score
        (absorbed,) = absorb_scale([model], scale)
        found = absorbed.rank(workload.graph, schedules, workload.hardware).score
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_nothing_to_rank_is_an_error(measured_log):
    with pytest.raises(RecordError, match="nothing to rank"):
        build_dataset(load_records(measured_log)[:1], {}, CARD)


def test_terminal_latents_are_aligned_with_what_is_known_of_the_programs(dataset):
    """Targets that the schedules determine; one workload has none, as logs without features."""
    keys = sorted(dataset)[:4]
    aligned = {}
    for key in keys:
        workload = dataset[key]
        target = np.zeros((len(workload.latencies), TARGET_WIDTH), np.float32)
        target[:, :3] = workload.steps.values[:, :3, :8].sum(2)
        aligned[key] = dataclasses.replace(workload, alignment=target)
    none = np.zeros((len(dataset[keys[0]].latencies), 0), np.float32)
    aligned[keys[0]] = dataclasses.replace(aligned[keys[0]], alignment=none)
    config = dataclasses.replace(CONFIG, epochs=30, alignment_weight=10.0)
    with_alignment = train(aligned, keys, [], create_small, 2, config).curves
    assert with_alignment[-1].loss < 0.5 * with_alignment[0].loss


def test_alignment_counts_only_known_targets():
    stores = np.zeros((2, STORE_WIDTH), np.float32)
    stores[1, 0] = 3  # the store of most arithmetic
    stores[1, 20] = 5
    target = alignment_target(stores)
    assert target[20] == 5
    assert target[STORE_WIDTH + 20] == 2.5
    unknown = alignment_target(stores[:0])
    assert np.isnan(unknown).all()
    targets = np.stack([target, unknown])[None]
    valid = np.ones((1, 2), bool)
    assert float(alignment_loss(jnp.asarray(np.stack([target, target]))[None], targets, valid)) == 0
    assert float(alignment_loss(jnp.zeros((1, 2, TARGET_WIDTH)), targets, valid)) > 0


def test_ratios_tell_slow_candidates_apart():
    throughput = np.array([[1.0, 0.04, 0.02]], np.float32)
    valid, emphasis = np.ones((1, 3), bool), np.ones(1, np.float32)
    right, wrong = np.array([[3.0, 1.0, 0.0]]), np.array([[3.0, 0.0, 1.0]])

    def cost(ratio_weight: float) -> float:
        losses = [
            pairwise_loss(jnp.asarray(s), throughput, valid, emphasis, ratio_weight)
            for s in (right, wrong)
        ]
        return float(losses[1] - losses[0])

    assert cost(1.0) > 5 * cost(0.0) > 0


@given(st.integers(0, 2**32 - 1), st.floats(-50, 50))
def test_distillation_asks_for_the_teachers_scores_up_to_a_shift(seed, shift):
    rng = np.random.default_rng(seed)
    taught = rng.normal(size=(2, 5)).astype(np.float32)
    valid = rng.random((2, 5)) < 0.7
    emphasis = np.ones(2, np.float32)
    scores = np.where(valid, taught + np.float32(shift), 1e6)
    assert float(distillation_loss(scores, taught, valid, emphasis)) < 1e-6
    bent = np.where(valid, scores * 2, 0)
    expected = [taught[row][valid[row]].var() for row in range(2) if valid[row].any()]
    found = float(distillation_loss(bent - scores, 0 * taught, valid, emphasis))
    assert found == pytest.approx(np.mean(expected) if expected else 0, rel=1e-2, abs=1e-3)


def test_a_taught_model_scores_like_its_teacher(dataset):
    keys = sorted(dataset)[:6]
    short = dataclasses.replace(CONFIG, epochs=20)
    teacher = train(dataset, keys, [], create_small, 2, short).model
    taught = teach({key: dataset[key] for key in keys}, teacher)
    # The labels pull elsewhere: what counts is whether it follows the teacher.
    config = dataclasses.replace(short, seed=1, distillation_weight=4.0)

    def distance(labelled):
        model = train(labelled, keys, [], create_small, 1, config).model
        scores = teach(labelled, model)
        errors = [scores[key].taught - taught[key].taught for key in keys]
        return np.mean([error.std() for error in errors])

    assert distance(taught) < 0.5 * distance({key: dataset[key] for key in keys})
