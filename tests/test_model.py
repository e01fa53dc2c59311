"""Invariances of the world model: padding, batching and slots change no score."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graphs import SHAPE_ONLY, matmul
from support.small_model import CARD, CONFIG, HARDWARE, PROGRAMS, padded
from support.strategies import schedules

from cwm_jax.features.batch import StepArrays, encode_schedules
from cwm_jax.features.graph import encode_graph
from cwm_jax.features.hardware import load_hardware
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.world_model import (
    Action,
    Latent,
    ModelConfig,
    create_model,
    rollout,
    to_schedules,
)
from cwm_jax.ranking import scorer as scorer_module
from cwm_jax.ranking.gaussian_process import AdaptationConfig
from cwm_jax.ranking.online import OnlineRanker
from cwm_jax.ranking.scorer import BATCH_BUCKETS, Scorer
from cwm_jax.records.steps import Step

MODEL = create_model(CONFIG, seed=0)
ENSEMBLE = Ensemble.create(CONFIG, seed=0)
several = st.lists(schedules(max_size=14).filter(bool), min_size=2, max_size=4)


def scores(graph, arrays: StepArrays, slots: int | None = None) -> np.ndarray:
    encoded = encode_graph(graph, slots or arrays.slots)
    return np.asarray(MODEL.rank(encoded, to_schedules(arrays), jnp.asarray(HARDWARE)).score)


@settings(max_examples=25, deadline=None)
@given(several, st.sampled_from(PROGRAMS))
def test_padding_steps_change_nothing(batch, graph):
    arrays = encode_schedules(batch, graph)
    np.testing.assert_allclose(
        scores(graph, padded(arrays, 8)), scores(graph, arrays), rtol=1e-5, atol=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(several, st.sampled_from(PROGRAMS))
def test_padding_slots_change_nothing(batch, graph):
    arrays = encode_schedules(batch, graph)
    np.testing.assert_allclose(
        scores(graph, arrays, 2 * arrays.slots), scores(graph, arrays), rtol=1e-5, atol=1e-6
    )


@settings(max_examples=15, deadline=None)
@given(several, st.sampled_from(PROGRAMS), st.randoms(use_true_random=False))
def test_batch_order_and_size_change_nothing(batch, graph, random):
    scorer = Scorer(ENSEMBLE, CARD)
    together = scorer.rank_schedules(graph, batch).score
    order = random.sample(range(len(batch)), len(batch))
    shuffled = scorer.rank_schedules(graph, [batch[at] for at in order]).score
    np.testing.assert_allclose(shuffled, together[order], rtol=1e-5, atol=1e-6)
    alone = np.array([scorer.rank_schedules(graph, [one]).score[0] for one in batch])
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)


def test_batches_larger_than_a_bucket_are_cut():
    batch = [(Step("SP", (2, 0, 64, (1 + at % 16,), 1)),) for at in range(2100)]
    scorer = Scorer(ENSEMBLE, CARD)
    found = scorer.rank_schedules(PROGRAMS[1], batch)
    assert found.score.shape == (2100,)
    assert found.features.shape == (2100, CONFIG.members * CONFIG.head_width)
    np.testing.assert_allclose(found.score[:16], found.score[2080:2096], rtol=1e-5, atol=1e-6)


def test_an_ensemble_scores_as_its_members_do():
    batch = [(Step("SP", (2, 0, 64, (factor,), 1)),) for factor in (2, 4, 8)]
    arrays = encode_schedules(batch, PROGRAMS[1])
    together = Scorer(ENSEMBLE, CARD).rank_schedules(PROGRAMS[1], batch)
    for at, model in enumerate(ENSEMBLE.models()):
        alone = Scorer(Ensemble.of([model]), CARD).rank_schedules(PROGRAMS[1], batch)
        np.testing.assert_allclose(together.members[:, at], alone.score, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together.members.mean(1), together.score, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        together.members[:, 0], scores(PROGRAMS[1], arrays), rtol=1e-5, atol=1e-6
    )
    assert (together.members[:, 0] != together.members[:, 1]).any()


def test_no_candidates_give_no_scores():
    assert Scorer(ENSEMBLE, CARD).rank_schedules(SHAPE_ONLY, []).score.shape == (0,)


def test_scores_depend_on_program_steps_their_order_and_hardware():
    split, other = (Step("SP", (2, at, 64, (8,), 1)) for at in (0, 1))
    base = scores(PROGRAMS[1], encode_schedules([(split, other)], PROGRAMS[1]))[0]
    assert base != scores(PROGRAMS[1], encode_schedules([(other, split)], PROGRAMS[1]))[0]
    assert base != scores(PROGRAMS[1], encode_schedules([(split, split)], PROGRAMS[1]))[0]
    larger = matmul(64, 96, 512)
    assert base != scores(larger, encode_schedules([(split, other)], larger))[0]
    gpu = Scorer(ENSEMBLE, load_hardware("cuda-v100"))
    assert base != gpu.rank_schedules(PROGRAMS[1], [(split, other)]).score[0]


def test_a_long_rollout_stays_finite_and_bounded():
    steps, candidates, slots = 4096, 2, 8
    keys = jax.random.split(jax.random.key(0), 3)
    encoded = 50 * jax.random.normal(keys[0], (steps, candidates, CONFIG.action_width))
    stage = jax.random.randint(keys[1], (steps, candidates), 0, slots)
    other = jax.random.randint(keys[2], (steps, candidates), 0, slots)
    live = jnp.ones((steps, candidates), bool)
    initial = Latent(
        jnp.zeros((candidates, slots, CONFIG.latent_width)),
        jnp.zeros((candidates, CONFIG.latent_width)),
    )
    terminal = rollout(MODEL.transition, initial, Action(encoded, stage, other, live))
    for leaf in terminal:
        assert jnp.isfinite(leaf).all()
        assert jnp.abs(leaf).max() <= 1


def test_a_step_changes_its_own_slot_only():
    latent = Latent(jnp.full((1, 4, CONFIG.latent_width), 0.5), jnp.zeros((1, CONFIG.latent_width)))
    action = Action(
        jnp.ones((1, CONFIG.action_width)), jnp.array([2]), jnp.array([0]), jnp.array([True])
    )
    after = MODEL.transition(latent, action, MODEL.transition.kernel())
    changed = jnp.any(after.slots != latent.slots, axis=-1)[0]
    assert changed.tolist() == [False, False, True, False]


def test_gradients_reach_every_parameter():
    graph = PROGRAMS[1]
    batch = [
        (Step("SP", (2, 0, 64, (8,), 1)), Step("CHW", (2, "local")), Step("AN", (3, 0, 3))),
        (Step("PR", (2, 0, "auto_unroll_max_step$64")), Step("SP", (2, 1, 96, (4,), 1))),
    ]
    arrays = encode_schedules(batch, graph)
    encoded = encode_graph(graph, arrays.slots)
    graphdef, state = nnx.split(MODEL)

    def spread(state):
        ranking = nnx.merge(graphdef, state).rank(encoded, to_schedules(arrays), HARDWARE)
        return (ranking.score[0] - ranking.score[1]) ** 2

    gradient = jax.grad(spread)(state)
    silent = [
        "/".join(map(str, path))
        for path, leaf in nnx.to_flat_state(gradient)
        if not jnp.any(leaf[...] != 0)
    ]
    assert silent == ["head/score/bias"]  # a constant added to all scores ranks nothing


def test_size_is_honest():
    assert Ensemble.create(ModelConfig(), 0).parameter_count < 700_000


def test_batches_of_any_size_compile_few_programs():
    schedule = (Step("SP", (2, 0, 64, (8,), 1)), Step("AN", (2, 1, 2)))
    batch = [
        (Step("SP", (2, 0, 64, (factor,), 1)), Step("AN", (2, 1, 2))) for factor in range(1, 65)
    ]
    scorer = Scorer(Ensemble.create(CONFIG, seed=3), CARD)
    before = scorer_module._rank._cache_size()
    for size in (1, 2, 63, 64, 65, 500, 512, 513, 2048, 2049, 4500):
        found = scorer.rank_schedules(PROGRAMS[1], (batch * 80)[:size])
        assert found.score.shape == (size,)
        assert np.isfinite(found.score).all()
    scorer.rank_schedules(PROGRAMS[1], [schedule])
    assert scorer_module._rank._cache_size() - before <= len(BATCH_BUCKETS)


def test_a_search_ranks_a_schedule_once(monkeypatch):
    batch = [(Step("SP", (2, 0, 64, (factor,), 1)), Step("AN", (2, 1, 2))) for factor in range(40)]
    new = (Step("SP", (2, 1, 64, (8,), 1)),)
    scorer = Scorer(Ensemble.create(CONFIG, seed=3), CARD)
    online = OnlineRanker(scorer, AdaptationConfig())
    first = online.rank(PROGRAMS[1], batch)
    asked = []
    rank = scorer.rank_schedules

    def note(graph, schedules):
        asked.extend(schedules)
        return rank(graph, schedules)

    monkeypatch.setattr(scorer, "rank_schedules", note)
    again = online.rank(PROGRAMS[1], [new, *batch[::-1], new])
    assert asked == [new]
    np.testing.assert_array_equal(again[1:-1][::-1], first)
    assert again[0] == again[-1] == pytest.approx(rank(PROGRAMS[1], [new]).score[0], rel=1e-5)
    online.rank(PROGRAMS[0], batch[:1])
    assert asked == [new, batch[0]]


_ON_DEVICES = """
import sys, jax, numpy as np
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import load_records
records = load_records(sys.argv[1])[:200]
np.save(sys.argv[2], np.array([jax.device_count(), *Scorer.load("cpu-x86-2core").score(records)]))
"""


def test_local_devices_share_a_batch(tmp_path, measured_log):
    found = []
    for count in (1, 3, 8):
        out = tmp_path / f"{count}.npy"
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
        command = [sys.executable, "-c", _ON_DEVICES, str(measured_log), str(out)]
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        subprocess.run(command, env=environment, check=True)
        devices, *scores = np.load(out)
        assert devices == count
        found.append(scores)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4, atol=1e-4)
