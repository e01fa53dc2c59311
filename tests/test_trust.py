"""A pretrained ranking that is wrong on a workload is found out, and done without."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from support.graphs import matmul

from cwm_jax.features.hardware import load_hardware
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.world_model import ModelConfig
from cwm_jax.ranking.gaussian_process import AdaptationConfig
from cwm_jax.ranking.online import OnlineRanker, TrustWarning
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.ranking.trust import earns_trust, most_agreeing
from cwm_jax.records.steps import Step

PROGRAM = matmul(64, 96, 32)
KEY = PROGRAM.workload_key
MODEL = ModelConfig(latent_width=16, action_width=16, hardware_width=4, head_width=16, members=2)
LATENCIES = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12)


@given(LATENCIES, LATENCIES, st.floats(1e-3, 1e3))
def test_trust_is_a_matter_of_ratios(chosen, drawn, unit):
    scaled = [[unit * value for value in values] for values in (chosen, drawn)]
    logs = [np.log(values).mean() for values in (chosen, drawn)]
    if abs(logs[1] - logs[0] - math.log(1.25)) > 1e-6:
        assert earns_trust(*scaled) == (logs[1] - logs[0] > math.log(1.25))


def test_failures_are_slow_and_nothing_is_said_without_evidence():
    assert earns_trust([1.0, 1.0], [3.0, math.inf])
    assert not earns_trust([1.0, math.inf, math.inf], [1.0, 1.0, 9.0])
    assert earns_trust([1.0], [])
    assert earns_trust([math.inf], [math.inf])


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """A model that has learned nothing."""
    return Scorer(Ensemble.create(MODEL, seed=3), load_hardware("cpu-x86-2core"))


@pytest.fixture(scope="module")
def others() -> list[Scorer]:
    """More of them, for another device."""
    card = load_hardware("cpu-x86-zen5")
    return [Scorer(Ensemble.create(MODEL, seed=seed), card) for seed in range(10, 22)]


def schedule(factor: int) -> tuple[Step, ...]:
    return (Step("SP", (2, 0, 64, (factor,), 1)), Step("AN", (2, 1, 2)))


def measured(scorer, chosen, drawn, alternatives=()) -> OnlineRanker:
    """A ranker that has seen schedules whose latency falls with their factor."""
    online = OnlineRanker(scorer, AdaptationConfig(), lambda: alternatives)
    online.record_drawn(KEY, [schedule(factor) for factor in drawn])
    for factor in (*chosen, *drawn):
        online.learn(KEY, schedule(factor), 1.0 / factor)
    return online


def test_a_first_round_draws_and_later_ones_only_if_the_model_is_wrong(scorer):
    fresh = OnlineRanker(scorer, AdaptationConfig())
    assert fresh.trusted(KEY) is None
    assert fresh.spend(PROGRAM, 16) == (4, 4)
    assert fresh.spend(PROGRAM, 8) == (4, 4)
    assert fresh.spend(PROGRAM, 7) == (7, 0)
    right = measured(scorer, chosen=(32, 40), drawn=(4, 6))
    assert right.spend(PROGRAM, 16) == (16, 0)
    assert right.trusted(KEY) is True
    wrong = measured(scorer, chosen=(4, 6), drawn=(32, 40))
    with pytest.warns(TrustWarning, match="for cpu-x86-2core chose was no faster .* none agrees"):
        assert wrong.spend(PROGRAM, 16) == (12, 4)
    assert wrong.trusted(KEY) is False
    blind = OnlineRanker(scorer, AdaptationConfig(drawn=0.0))
    assert blind.spend(PROGRAM, 16) == (16, 0)


@pytest.mark.filterwarnings("ignore::cwm_jax.ranking.online.TrustWarning")
def test_a_verdict_stands(scorer):
    """What a corrected ranking chooses later says nothing of the pretrained one."""
    online = measured(scorer, chosen=(4, 6), drawn=(32, 40))
    for factor in (48, 56, 64):
        online.spend(PROGRAM, 16)
        assert online.trusted(KEY) is False
        online.learn(KEY, schedule(factor), 1e-3)
    assert online.trusted("another workload") is None


def test_the_model_that_agrees_with_the_measurements_takes_over_and_is_tried(scorer, others):
    factors = (1, 2, 4, 6, 8, 32, 40, 60)
    schedules = [schedule(factor) for factor in factors]
    agreements = {
        at: spearmanr(other.rank_schedules(PROGRAM, schedules).score, factors).statistic
        for at, other in enumerate(others)
    }
    order = sorted(agreements, key=agreements.__getitem__)
    others = [others[at] for at in order]
    most = agreements[order[-1]]
    assert most > 0.5
    error = 1 / math.sqrt(len(factors) - 1)
    best = others[next(i for i, at in enumerate(order) if agreements[at] >= most - error)]
    assert best is not others[0]
    online = measured(scorer, chosen=factors[:4], drawn=factors[4:], alternatives=others)
    with pytest.warns(TrustWarning, match="that for cpu-x86-zen5 is tried next"):
        assert online.spend(PROGRAM, 16) == (16, 0)
    assert online.scorer_of(KEY) is best
    assert online.trusted(KEY) is None
    expected = best.rank_schedules(PROGRAM, schedules).score
    np.testing.assert_allclose(online.pretrained_scores(PROGRAM, schedules).score, expected)

    for factor in (44, 48, 52, 64):
        online.learn(KEY, schedule(factor), 1e-4)
    assert online.spend(PROGRAM, 16) == (16, 0)
    assert online.trusted(KEY) is True


def test_a_model_that_takes_over_and_fails_is_replaced_in_turn(scorer, others):
    online = measured(scorer, (1, 2, 4, 6), (8, 32, 40, 60), others)
    tried = []
    with pytest.warns(TrustWarning):
        while online.spend(PROGRAM, 16) == (16, 0):
            tried.append(online.scorer_of(KEY))
            for factor in (1, 2, 3):
                online.learn(KEY, schedule(factor), 1.0)
    assert len({id(other) for other in tried}) == len(tried) >= 1
    assert online.trusted(KEY) is False
    assert online.scorer_of(KEY) is scorer


def test_rankings_that_do_not_agree_are_not_chosen():
    latencies = [1.0, 2.0, 3.0, math.inf]
    right, wrong, flat = -np.arange(4.0), np.arange(4.0), np.zeros(4)
    assert most_agreeing([wrong, right, flat], latencies) == 1
    assert most_agreeing([wrong, flat], latencies) is None
    assert most_agreeing([], latencies) is None


def test_of_rankings_that_agree_nearly_as_well_the_first_is_chosen():
    latencies = np.arange(1.0, 9.0)
    right = -latencies
    nearly, worse = right.copy(), right.copy()
    nearly[[2, 3]] = nearly[[3, 2]]
    worse[[0, 4]] = worse[[4, 0]]
    assert spearmanr(worse, -latencies).statistic == pytest.approx(0.619, abs=1e-3)
    assert most_agreeing([nearly, right], latencies) == 0
    assert most_agreeing([worse, right, nearly], latencies) == 1
    assert most_agreeing([worse], latencies) == 0
    assert most_agreeing([np.zeros(8), worse, right], latencies) == 2


def test_few_measurements_refute_no_ranking_that_they_hardly_tell_of():
    latencies = np.arange(1.0, 9.0)
    unsure = np.array([4.0, 7.0, 1.0, 6.0, 3.0, 8.0, 2.0, 5.0])
    assert spearmanr(unsure, -latencies).statistic == pytest.approx(0.0, abs=0.1)
    assert most_agreeing([unsure], latencies) == 0
    assert most_agreeing([unsure, -latencies], latencies) == 1
    assert most_agreeing([latencies], latencies) is None
    assert most_agreeing([np.tile(unsure, 4)], np.arange(1.0, 33.0)) is None


def test_without_trust_the_order_is_learned_from_what_is_measured(scorer):
    factors = np.arange(1, 65)
    latencies = 1.0 / factors
    online = measured(scorer, chosen=(1, 2, 4, 8), drawn=(16, 24, 40, 60))
    with pytest.warns(TrustWarning):
        ranked = online.rank(PROGRAM, [schedule(int(factor)) for factor in factors])
    assert spearmanr(ranked, -latencies).statistic > 0.9
    scores = online.pretrained_scores(PROGRAM, [schedule(int(factor)) for factor in factors])
    chosen = online.choose(PROGRAM, scores, 8)
    assert np.median(factors[chosen]) > 40
