"""What the world model is judged against: it is real, and fair."""

import argparse
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_model import CONFIG, HARDWARE, PROGRAMS, padded
from support.strategies import schedules

from cwm_jax import load_records
from cwm_jax.bench.baselines import (
    SEQUENCE_KINDS,
    SequenceModel,
    TensetMlp,
    Tlp,
    score_trees,
    tokens_of_primitives,
    tokens_of_stores,
    train_trees,
)
from cwm_jax.bench.offline_search import adapted_best, chosen_best, replay_summary
from cwm_jax.bench.repeated_measurements import noise_ceiling, remeasured_ratios
from cwm_jax.cli.training_data import split_of
from cwm_jax.errors import CwmError, RecordError
from cwm_jax.evaluation.report import calibrate, pair_probabilities
from cwm_jax.features.batch import encode_schedules
from cwm_jax.features.graph import encode_graph
from cwm_jax.model.world_model import to_schedules
from cwm_jax.ranking.gaussian_process import AdaptationConfig
from cwm_jax.records.steps import Step
from cwm_jax.records.store_features import (
    STORE_WIDTH,
    read_stores,
    stores_path,
    write_stores,
)
from cwm_jax.training.config import TrainingConfig
from cwm_jax.training.dataset import Split, split_by_network
from cwm_jax.tuning.corpus import Corpus, CorpusTask, write_tasks

several = st.lists(schedules(max_size=14).filter(bool), min_size=2, max_size=4)


def scores(model, graph, arrays) -> np.ndarray:
    encoded = encode_graph(graph, arrays.slots)
    return np.asarray(model.rank(encoded, to_schedules(arrays), jnp.asarray(HARDWARE)).score)


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
@settings(max_examples=4, deadline=None)
@given(several)
def test_padding_changes_no_sequence_model(kind, batch):
    model = SequenceModel(kind, CONFIG, rngs=nnx.Rngs(0))
    arrays = encode_schedules(batch, PROGRAMS[1])
    np.testing.assert_allclose(
        scores(model, PROGRAMS[1], padded(arrays, 8)),
        scores(model, PROGRAMS[1], arrays),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
def test_only_the_bag_is_blind_to_order(kind):
    """Annotations of two loops: the features of each step do not depend on their order."""
    first, second = Step("PR", (2, 0, "auto_unroll_max_step$64")), Step("AN", (2, 0, 3))
    arrays = encode_schedules([(first, second)], PROGRAMS[0])
    swapped = type(arrays)(
        *(
            getattr(arrays, name)[:, [1, 0, *range(2, arrays.kind.shape[1])]]
            for name in ("kind", "tag", "stage", "other", "values")
        ),
        length=arrays.length,
        slots=arrays.slots,
    )
    model = SequenceModel(kind, CONFIG, rngs=nnx.Rngs(0))
    difference = abs(scores(model, PROGRAMS[0], arrays) - scores(model, PROGRAMS[0], swapped))[0]
    # The bag, too, hands the head its last step.
    assert difference > 1e-6


def stores_of(rng: np.random.Generator, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Programs whose throughput is in their features, and in the number of their stores."""
    stores = [
        rng.random((rng.integers(1, 5), STORE_WIDTH)).astype(np.float32) for _ in range(count)
    ]
    value = np.array([rows[:, 3].sum() for rows in stores])
    return stores, (value / value.max()).astype(np.float32)


def test_boosted_trees_learn_a_sum_over_stores():
    rng = np.random.default_rng(0)
    stores, throughput = stores_of(rng, 600)
    booster = train_trees(stores[:500], throughput[:500], seed=0, rounds=200)
    found = score_trees(booster, [*stores[500:], np.zeros((0, STORE_WIDTH), np.float32)])
    assert found[-1] == 0
    assert np.corrcoef(found[:-1], throughput[500:])[0, 1] > 0.8


def test_tokens_keep_what_the_static_models_read():
    rng = np.random.default_rng(0)
    stores, _ = stores_of(rng, 5)
    tokens = tokens_of_stores(stores)
    assert tokens.length.tolist() == [len(rows) for rows in stores]
    np.testing.assert_allclose(tokens.values[2, : len(stores[2])] * 16, stores[2], rtol=1e-6)
    steps = [(Step("SP", (2, 0, 64, (8,), 1)), Step("AN", (2, 0, 3))), (Step("AN", (2, 0, 3)),)]
    primitives = tokens_of_primitives(steps)
    assert primitives.length.tolist() == [2, 1]
    np.testing.assert_array_equal(primitives.values[0, 1], primitives.values[1, 0])
    assert not primitives.values[1, 1:].any()
    for model, arrays in ((TensetMlp, tokens), (Tlp, primitives)):
        created = model(rngs=nnx.Rngs(0))
        encoded = encode_graph(PROGRAMS[0], arrays.slots)
        padding = padded(arrays, 8)
        for given_arrays in (arrays, padding):
            ranking = created.rank(encoded, to_schedules(given_arrays), jnp.asarray(HARDWARE))
            assert ranking.latent.shape == (len(arrays.length), created.latent_width)
        np.testing.assert_allclose(
            created.rank(encoded, to_schedules(arrays), HARDWARE).score,
            created.rank(encoded, to_schedules(padding), HARDWARE).score,
            rtol=1e-4,
            atol=1e-5,
        )


def test_no_workload_of_a_held_out_network_is_trained_on():
    occurrences = {
        "only in training": {"vgg-16:1,NHWC": 2},
        "in both": {"vgg-16:1,NHWC": 1, "resnet-50:1,NHWC": 3},
        "only held out": {"resnet-50:1,NHWC": 1, "resnet-50:4,NCHW": 2},
        "an operator": {"matmul:8,8,8": 1},
    }
    split = split_by_network(occurrences, ["resnet-50"])
    assert split.train == ("an operator", "only in training")
    assert split.test == {
        "resnet-50:1,NHWC": {"in both": 3, "only held out": 1},
        "resnet-50:4,NCHW": {"only held out": 2},
    }
    assert split.test_keys == ("in both", "only held out")


@given(st.lists(st.integers(0, 5), max_size=8), st.integers(0, 2**32 - 1))
def test_store_features_survive_the_file(tmp_path_factory, counts, seed):
    rng = np.random.default_rng(seed)
    stores = [rng.normal(0, 10, (count, STORE_WIDTH)).astype(np.float32) for count in counts]
    path = tmp_path_factory.mktemp("stores") / "log.stores.npz"
    write_stores(path, stores)
    found = read_stores(path, len(stores))
    assert [len(rows) for rows in found] == counts
    for rows, original in zip(found, stores, strict=True):
        np.testing.assert_allclose(rows, original, rtol=1e-3, atol=1e-3)


def test_store_features_of_another_log_are_refused(tmp_path):
    path = stores_path(tmp_path / "log.jsonl.gz")
    assert path.name == "log.stores.npz"
    write_stores(path, [np.zeros((2, STORE_WIDTH), np.float32)])
    with pytest.raises(RecordError, match="holds 1 records, the log 2"):
        read_stores(path, 2)
    path.write_bytes(b"PK not really")
    with pytest.raises(RecordError, match="cannot be read"):
        read_stores(path, 1)
    with pytest.raises(RecordError, match="cannot be read"):
        read_stores(tmp_path / "none.npz", 1)


def test_a_model_that_states_what_it_knows_is_calibrated():
    """Latencies that are really drawn by the probabilities which the members state."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(60):
        score = rng.normal(0, 1.5, 24)
        # Differences of Gumbel noise are logistic, as the pairwise loss assumes.
        latency = np.exp(-(score + rng.gumbel(size=24)))
        parts.append((np.stack([score, score + 3], 1), latency))
    found = calibrate(parts)
    assert found.error < 0.03
    assert found.pairs.sum() == 60 * 24 * 23
    bold = [(8 * members, latency) for members, latency in parts]
    assert calibrate(bold).error > 0.1


def test_members_that_disagree_are_unsure():
    members = np.array([[2.0, -2.0], [0.0, 0.0]])
    probability = pair_probabilities(members)
    assert probability[0, 1] == pytest.approx(0.5)
    agreed = pair_probabilities(np.array([[2.0, 2.0], [0.0, 0.0]]))
    assert agreed[0, 1] == pytest.approx(1 / (1 + np.exp(-2)))


def test_noise_lowers_the_ceiling_and_drift_does_not():
    rng = np.random.default_rng(0)
    latencies = {str(at): np.exp(rng.normal(0, 1, 32)) for at in range(8)}
    still = noise_ceiling(latencies, np.full(50, 1.2), draws=2, seed=0)
    assert still.top1 == still.pairwise == 1
    noisy = noise_ceiling(latencies, np.exp(rng.normal(0, 0.3, 200)), draws=4, seed=0)
    assert noisy.top1 < 0.97
    assert 0.7 < noisy.pairwise < 0.97


def test_ratios_pair_the_same_programs(measured_log):
    records = load_records(measured_log, valid_only=True)[:6]
    again = [
        dataclasses.replace(record, costs=tuple(2 * cost for cost in record.costs))
        for record in records[3:0:-1]
    ]
    assert remeasured_ratios(records, again).tolist() == pytest.approx([2, 2, 2])


def test_a_replay_counts_what_each_order_finds():
    rng = np.random.default_rng(0)
    latencies = {"long": rng.permutation(np.arange(1.0, 201.0)), "short": np.arange(1.0, 9.0)}
    perfect = {key: -found for key, found in latencies.items()}
    summary = replay_summary(perfect, None, latencies)
    assert summary["replay_histories"] == 1
    assert summary["replay_of_best"] == pytest.approx(1)
    assert summary["replay_speedup"] == pytest.approx(latencies["long"][:64].min())
    worst = replay_summary(latencies, None, latencies)
    assert worst["replay_of_best"] == pytest.approx(1 / 137)
    assert replay_summary({"short": perfect["short"]}, None, latencies) == {}


def test_adaptation_rescues_a_replay_from_a_wrong_prior():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 6)).astype(np.float32)
    latencies = np.exp(features[:, 0]).astype(np.float32)
    scores = rng.normal(size=400).astype(np.float32)
    blind = chosen_best(scores, latencies, 64)
    adapted = adapted_best(scores, features, latencies, 64, 16, AdaptationConfig())
    assert adapted <= blind
    assert adapted <= np.sort(latencies)[4]


def test_networks_are_held_out_of_the_logs_of_other_devices(tmp_path):
    """A workload that any log knows as a network's is left out of all."""
    own, other = tmp_path / "own", tmp_path / "other"
    held = {"resnet-50:1,NHWC": 4}
    for folder, workloads in (
        (own, {"a": {"matmul:8,8,8": 1}, "b": {"conv": 1}}),
        (other, {"b": held, "c": held}),
    ):
        folder.mkdir()
        write_tasks(
            Corpus(folder).tasks,
            [CorpusTask(key, "llvm", 0, 1.0, "", found) for key, found in workloads.items()],
        )

    def split(keys: list[str], *networks: str) -> Split:
        options = argparse.Namespace(
            records=[Corpus(own).records],
            also=[f"cpu-x86-2core={Corpus(other).records}"],
            hold_out=networks,
        )
        return split_of(keys, options, TrainingConfig(test=0.5))

    assert split(["a", "b"], "resnet-50") == Split(("a",), ("b",))
    assert split(["a"], "resnet-50") == Split(("a",), ())  # others' logs are the test
    with pytest.raises(CwmError, match="is of vgg-16"):
        split(["a", "b"], "resnet-50", "vgg-16")
