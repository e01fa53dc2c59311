"""Speed-ups, intervals and headroom of finished searches."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.bench.search_summary import (
    Found,
    best_so_far,
    captured_headroom,
    compare,
    geometric_interval,
    geometric_mean,
    pace,
    round_seconds_ratio,
    scored_ratio,
)

ratios = st.lists(st.floats(0.25, 4.0), min_size=1, max_size=4)


def searches(ours: list[float], theirs: list[float], trials: int = 64) -> list[Found]:
    found = []
    for at, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        workload, seed = f"w{at // 2}", at % 2
        found.append(Found(workload, "world-model", seed, trials, a, 1.0 + at))
        found.append(Found(workload, "xgboost", seed, trials, b, 10.0 + 10 * at))
    return found


def test_ratios_are_paired_by_seed():
    found = compare(searches([1, 2, 4], [2, 2, 2]), "world-model", "xgboost", 64)
    assert found["by_workload"] == pytest.approx({"w0": math.sqrt(2), "w1": 0.5})
    assert found["geomean"] == pytest.approx(1.0)
    assert found["worst"] == pytest.approx(0.5)
    assert found["pairs"] == 3


def test_a_search_without_its_pair_counts_nothing():
    found = searches([1, 2], [2, 2])[:-1]
    assert compare(found, "world-model", "xgboost", 64)["pairs"] == 1
    assert compare(found, "world-model", "xgboost", 16)["pairs"] == 0
    assert round_seconds_ratio(found, "world-model", "xgboost") == pytest.approx(0.1)


@given(st.lists(ratios, min_size=1, max_size=6))
def test_the_interval_holds_the_mean_of_alike_workloads(by_workload):
    every = [ratio for values in by_workload for ratio in values]
    low, high = geometric_interval(by_workload, seed=0)
    assert min(every) - 1e-9 <= low <= high <= max(every) + 1e-9
    assert geometric_interval([by_workload[0]], seed=1) == pytest.approx(
        (geometric_mean(by_workload[0]),) * 2
    )


@given(st.floats(0.5, 0.9), st.floats(1.1, 3.0))
def test_headroom_is_one_at_the_optimum_and_none_at_the_rival(optimum, short):
    optima = {("w0", seed): optimum for seed in range(2)}
    against = ("world-model", "xgboost", 64)
    best = captured_headroom(searches([optimum, optimum], [short, short]), *against, optima)
    assert best["captured"] == pytest.approx(1)
    assert best["headroom"] == pytest.approx(short / optimum)
    level = searches([short, short], [short, short])
    assert captured_headroom(level, *against, optima)["captured"] == pytest.approx(0)
    assert captured_headroom(level, *against, {})["workloads"] == 0


def test_curves_never_rise():
    assert best_so_far([None, 3.0, 5.0, 2.0]) == [math.inf, 3.0, 3.0, 2.0]


def test_prediction_rates_are_compared_pair_by_pair():
    curves = [
        {"workload": f"w{at}", "seed": 0, "variant": name, "predicted_per_second": rate}
        for at, rates in enumerate([(100, 10), (300, 10), (50, 10), (None, 10), (7, None)])
        for name, rate in zip(("world-model", "xgboost"), rates, strict=True)
    ]
    assert scored_ratio(curves, "world-model", "xgboost") == 10
    assert scored_ratio(curves[6:], "world-model", "xgboost") is None


def curve_of_search(variant, best, rounds, seconds, workload="w", seed=0):
    return {
        "workload": workload,
        "seed": seed,
        "variant": variant,
        "best": best,
        "round_trials": rounds,
        "round_ends": seconds,
    }


def test_paces_are_told_pair_by_pair():
    slow = {"variant": "xgboost", "best": [None, 5.0, 4.0, 3.0], "rounds": [2, 4]}
    curves = [
        curve_of_search(**slow, seconds=[10.0, 30.0]),
        curve_of_search("world-model", [None, 4.0, 3.0, 1.0], [1, 4], [5.0, 10.0]),
        curve_of_search(**slow, seconds=[10.0, 30.0], seed=1),
        curve_of_search("world-model", [9.0, 8.0, 7.0, 3.5], [1, 4], [5.0, 15.0], seed=1),
        curve_of_search(**slow, seconds=[10.0, 30.0], workload="resumed"),
        curve_of_search("world-model", [3.0, 3.0, 3.0, 3.0], [3, 4], [1.0, 2.0], "resumed"),
        curve_of_search(**slow, seconds=[10.0, 30.0], workload="resumed early"),
        curve_of_search("world-model", [9.0] * 4, [2, 3, 4], [1.0, 2.0, 3.0], "resumed early"),
        curve_of_search("xgboost", [None, None], [1, 2], [1.0, 2.0], "nothing found"),
        curve_of_search("world-model", [None, 1.0], [1, 2], [2.0, 4.0], "nothing found"),
        curve_of_search("world-model", [1.0], [1], [1.0], "without a pair"),
    ]
    found = pace(curves, "world-model", "xgboost")
    assert found.trials == [3, math.inf, 1, math.inf, 2]
    assert found.times_as_long == [3.0, 2.0, 0.5]
