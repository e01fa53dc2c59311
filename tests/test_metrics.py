"""Ranking metrics against hand-computed cases and brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.ranking.metrics import (
    pairwise_accuracy,
    rank_metrics,
    top_k_latency,
    weighted_top_k,
)

LATENCIES = np.array([4.0, 1.0, 2.0, 8.0, 3.0, 5.0])


def test_perfect_and_reversed_ranking():
    perfect = rank_metrics(-LATENCIES, LATENCIES)
    assert (perfect.top1, perfect.top5, perfect.pairwise) == (1, 1, 1)
    assert perfect.spearman == perfect.spearman_fast == pytest.approx(1)
    reverse = rank_metrics(LATENCIES, LATENCIES)
    assert (reverse.top1, reverse.top5, reverse.pairwise) == (1 / 8, 1 / 2, 0)


def test_the_faster_half_is_judged_by_itself():
    scores = np.array([0.0, 3.0, 4.0, 2.0, 5.0, 1.0])  # 1, 2 and 3 s are the fast ones
    assert rank_metrics(scores, LATENCIES).spearman_fast == pytest.approx(-1)
    scores[[1, 2, 4]] = 5, 4, 3
    assert rank_metrics(scores, LATENCIES).spearman_fast == pytest.approx(1)
    assert math.isnan(rank_metrics(scores[:1], LATENCIES[:1]).spearman_fast)


def test_constant_scores_are_worth_chance():
    metrics = rank_metrics(np.zeros(6), LATENCIES)
    assert metrics.pairwise == 0.5
    assert math.isnan(metrics.spearman)
    assert metrics.top1 == pytest.approx(1 / LATENCIES.mean())


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_ties_give_the_expectation_over_choices(scores, k, random):
    scores = np.array(scores, float)
    latencies = np.array([random.uniform(1, 2) for _ in scores])
    k = min(k, len(scores))
    cut = np.sort(scores)[::-1][k - 1]
    sure = [at for at in range(len(scores)) if scores[at] > cut]
    tied = [at for at in range(len(scores)) if scores[at] == cut]
    choices = itertools.combinations(tied, k - len(sure))
    expected = np.mean([min(latencies[[*sure, *choice]]) for choice in choices])
    assert top_k_latency(scores, latencies, k) == pytest.approx(expected)


def test_pairs_of_equal_latency_do_not_count():
    assert pairwise_accuracy(np.array([2.0, 1.0, 0.0]), np.array([1.0, 1.0, 2.0])) == 1
    assert math.isnan(pairwise_accuracy(np.array([2.0, 1.0]), np.array([1.0, 1.0])))


def test_weighted_top_k_is_a_ratio_of_sums():
    scores = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0])}
    latencies = {"a": np.array([2.0, 1.0]), "b": np.array([9.0, 3.0])}
    weights = {"a": 4.0, "b": 1.0}
    assert weighted_top_k(scores, latencies, weights, 1) == pytest.approx((4 + 3) / (8 + 3))


@pytest.mark.parametrize("scores", [np.array([]), np.array([np.nan])])
def test_nothing_to_rank_is_an_error(scores):
    with pytest.raises(ValueError, match="at least one candidate"):
        rank_metrics(scores, np.ones(len(scores)))
