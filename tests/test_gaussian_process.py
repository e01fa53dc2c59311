"""Online adaptation: it corrects what was measured and trusts the prior elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.ranking.gaussian_process import (
    AdaptationConfig,
    adapted_score,
    choose_batch,
    fit_adaptation,
    prior_adaptation,
)
from cwm_jax.ranking.metrics import pairwise_accuracy

CONFIG = AdaptationConfig()


def candidates(seed: int, count: int = 400):
    """Features in two clusters, a throughput that depends on them, and a noisy prior score."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 8)) + 3 * rng.integers(0, 2, (count, 1))
    throughput = 1 / (1 + np.exp(-features[:, 0] + 1))
    return features, throughput, rng


def test_too_few_measurements_leave_the_prior():
    features, throughput, _ = candidates(0, 3)
    assert fit_adaptation(throughput, features, throughput, CONFIG) is None


@pytest.mark.parametrize("sign", [1.0, 0.0, -1.0])
def test_a_bad_prior_is_recovered_from(sign):
    features, throughput, rng = candidates(1)
    score = 5 * sign * throughput + rng.normal(size=len(throughput))
    fitted = fit_adaptation(score[:64], features[:64], throughput[:64], CONFIG)
    assert fitted is not None
    adapted = adapted_score(fitted, score[64:], features[64:])
    before = pairwise_accuracy(score[64:], 1 / throughput[64:])
    after = pairwise_accuracy(adapted, 1 / throughput[64:])
    assert after > before
    assert after > 0.7


def test_measuring_only_the_best_scored_keeps_the_order_elsewhere():
    features, throughput, rng = candidates(2)
    score = 8 * throughput + 0.5 * rng.normal(size=len(throughput))
    best = np.argsort(-score)[:16]
    fitted = fit_adaptation(score[best], features[best], throughput[best], CONFIG)
    assert fitted is not None
    rest = np.setdiff1d(np.arange(len(score)), best)
    adapted = adapted_score(fitted, score[rest], features[rest])
    assert pairwise_accuracy(adapted, 1 / throughput[rest]) > 0.85


def test_a_failed_candidate_sinks_with_those_like_it():
    features, throughput, _ = candidates(3)
    score = np.zeros(len(throughput))
    measured = np.where(features[:32].mean(1) > 1.5, 0.0, 0.8)  # one cluster fails
    fitted = fit_adaptation(score[:32], features[:32], measured, CONFIG)
    assert fitted is not None
    adapted = adapted_score(fitted, score[32:], features[32:])
    failing = features[32:].mean(1) > 1.5
    assert adapted[failing].mean() < adapted[~failing].mean() - 0.1


def test_what_was_measured_often_is_explored_no_more():
    features, throughput, rng = candidates(4)
    crowded = features[0] + 0.01 * rng.normal(size=(30, 8))
    measured = np.concatenate([crowded, features[1:17]])
    found = np.concatenate([np.full(30, throughput[1:17].mean()), throughput[1:17]])
    fitted = fit_adaptation(np.zeros(46), measured, found, CONFIG)
    assert fitted is not None
    far = features[0] + 40.0
    near_bound, far_bound = adapted_score(fitted, np.zeros(2), np.stack([features[0], far]))
    assert far_bound > near_bound + 0.05


@given(st.integers(4, 40), st.floats(-1e3, 1e3), st.integers(0, 5))
def test_any_measurements_give_finite_scores(count, shift, seed):
    features, throughput, rng = candidates(seed, count + 10)
    features[:, 3] = shift
    score = np.full(len(throughput), shift) if seed % 2 else rng.normal(size=len(throughput))
    fitted = fit_adaptation(score[:count], features[:count], throughput[:count], CONFIG)
    assert fitted is not None
    assert fitted.slope >= 0
    assert np.isfinite(adapted_score(fitted, score, features)).all()


def test_a_batch_is_good_and_unlike_itself():
    features, throughput, rng = candidates(5)
    fitted = fit_adaptation(throughput[:32], features[:32], throughput[:32], CONFIG)
    twins = np.repeat(features[40:48], 8, axis=0) + 1e-3 * rng.normal(size=(64, 8))
    score = np.repeat(throughput[40:48], 8) + 1e-4 * rng.random(64)
    chosen = choose_batch(fitted, score, twins, 8)
    assert len(set(chosen)) == 8
    kinds = len({at // 8 for at in chosen})
    greedy = np.argsort(-adapted_score(fitted, score, twins))[:8]
    assert kinds > len({at // 8 for at in greedy})
    assert chosen[0] == greedy[0]
    assert choose_batch(fitted, score[:3], twins[:3], 8) != []
    assert sorted(choose_batch(fitted, score[:3], twins[:3], 8)) == [0, 1, 2]


def test_before_anything_is_measured_a_batch_is_the_best_but_varied():
    features, throughput, rng = candidates(6)
    twins = np.repeat(features[:8], 8, axis=0) + 1e-3 * rng.normal(size=(64, 8))
    score = np.repeat(throughput[:8], 8) + 1e-4 * rng.random(64)
    prior = prior_adaptation(score, twins, CONFIG)
    np.testing.assert_array_equal(np.argsort(adapted_score(prior, score, twins)), np.argsort(score))
    chosen = choose_batch(prior, score, twins, 8)
    assert chosen[0] == score.argmax()
    assert len({at // 8 for at in chosen}) > 3
    greedy = prior_adaptation(score, twins, AdaptationConfig(exploration=0.0))
    assert choose_batch(greedy, score, twins, 8) == np.argsort(-score)[:8].tolist()
