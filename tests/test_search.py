"""Planning without TVM: moves keep splits whole, evolution finds what scores high."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.graphs import matmul
from support.strategies import schedules

from cwm_jax.features.batch import group_schedules
from cwm_jax.features.columns import COLUMNS
from cwm_jax.ranking.scorer import Scores
from cwm_jax.records.steps import Step
from cwm_jax.search.moves import (
    MAX_INNERMOST,
    UNROLL_STEPS,
    graft,
    layout_of,
    mutate,
    same_shape,
    with_numbers,
)
from cwm_jax.search.planner import Planner, PlannerConfig

PROGRAM = matmul(96, 128, 64)
SEED = (
    Step("SP", (2, 0, 96, (4, 2, 2), 1)),
    Step("SP", (2, 4, 128, (1, 4, 16), 1)),
    Step("SP", (2, 8, 64, (8,), 1)),
    Step("RE", (2, (0, 4, 1, 5, 8, 2, 6, 9, 3, 7))),
    Step("AN", (2, 9, 2)),
    Step("PR", (2, 0, "auto_unroll_max_step$16")),
)


@given(st.lists(schedules(max_size=10), min_size=1, max_size=4))
def test_numbers_put_back_give_the_same_schedule(batch):
    for rows, group in group_schedules(batch):
        for row, numbers in zip(rows, group.numbers, strict=True):
            assert with_numbers(batch[row], numbers) == batch[row]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_moves_keep_every_split_whole(seed, generations):
    rng = np.random.default_rng(seed)
    ((_, group),) = group_schedules([SEED])
    layout = layout_of(group.structure)
    assert len(layout.splits) == 3
    assert len(layout.unrolls) == 1
    numbers = np.repeat(group.numbers, 64, axis=0)
    for _ in range(generations):
        numbers = mutate(layout, numbers, rng)
    for row in numbers:
        moved = with_numbers(SEED, row)
        assert [step.kind for step in moved] == [step.kind for step in SEED]
        for step in moved[:3]:
            extent, factors = step.fields[2], step.fields[3]
            assert extent % int(np.prod(factors)) == 0
            assert factors[-1] <= MAX_INNERMOST
        assert int(moved[-1].fields[2].partition("$")[2]) in UNROLL_STEPS
    assert len(np.unique(numbers, axis=0)) > 16


def test_what_has_no_moves_stays():
    schedule = (Step("CI", (1,)), Step("AN", (2, 0, 3)))
    ((_, group),) = group_schedules([schedule])
    np.testing.assert_array_equal(
        mutate(layout_of(group.structure), group.numbers, np.random.default_rng(0)), group.numbers
    )


def test_evolution_finds_the_tile_that_a_model_likes():
    """The score asks for an innermost extent of 32 and a tile of 6; the seed has 16 and 2."""
    part = COLUMNS["part_0"]

    def rank(arrays) -> Scores:
        wanted = np.log2(1 + np.array([6, 32])) / 8
        score = -np.abs(arrays.values[:, :2, part] - wanted).sum(1).astype(np.float32)
        return Scores(score, *[score[:, None]] * 3)

    config = PlannerConfig(population=256, generations=12)
    planner = Planner(PROGRAM, rank, config, np.random.default_rng(0))
    planner.add([SEED])
    found = planner.plan(lambda scores: scores.score, 20)
    best = found.schedules[0]
    assert best[0].fields[3][-1] == 6
    assert best[1].fields[3][-1] == 32
    assert found.ranked.score[0] == pytest.approx(0, abs=1e-6)
    assert len(set(found.schedules)) == len(found.schedules) == 20
    assert (np.diff(found.ranked.score) <= 0).all()
    assert found.imagined > 200


def test_a_planner_ranks_a_schedule_once_and_corrects_it_anew():
    """The first correction likes large innermost tiles, the second small ones."""
    part = COLUMNS["part_0"]
    ranked = []

    def rank(arrays) -> Scores:
        ranked.append(len(arrays.length))
        score = arrays.values[:, 1, part].astype(np.float32)
        return Scores(score, *[score[:, None]] * 3)

    config = PlannerConfig(population=128, generations=6, remembered=60)
    planner = Planner(PROGRAM, rank, config, np.random.default_rng(0))
    planner.add([SEED, SEED])
    large = planner.plan(lambda scores: scores.score, 10)
    small = planner.plan(lambda scores: -scores.score, 10)
    again = planner.plan(lambda scores: scores.score, 10)
    assert large.imagined + small.imagined + again.imagined == sum(ranked)
    assert large.schedules[0][1].fields[3][-1] == 64
    assert small.schedules[0][1].fields[3][-1] == 1
    assert again.schedules[0][1].fields[3][-1] == 64
    every = [*large.schedules, *small.schedules, *again.schedules]
    assert all(len(schedule) == len(SEED) for schedule in every)


def test_a_planner_without_schedules_proposes_nothing():
    planner = Planner(PROGRAM, lambda arrays: None, PlannerConfig(), np.random.default_rng(0))
    planner.add([])
    assert planner.plan(lambda scores: scores.score, 10).schedules == []


def test_a_graft_brings_tile_sizes_into_another_structure():
    """The host computes another loop in parallel; its second split is of another extent."""
    donor = SEED
    host = (
        Step("SP", (2, 0, 96, (1, 1, 1), 1)),
        Step("SP", (2, 4, 64, (1, 1, 1), 1)),
        Step("SP", (2, 8, 64, (1,), 1)),
        Step("AN", (2, 0, 3)),
        Step("PR", (2, 0, "auto_unroll_max_step$0")),
    )
    (_, hosts), (_, donors) = group_schedules([host])[0], group_schedules([donor])[0]
    layout, given = layout_of(hosts.structure), layout_of(donors.structure)
    assert same_shape(layout, given)
    taken = np.ones((1, 4), bool)
    child = with_numbers(host, graft(layout, hosts.numbers, given, donors.numbers, taken)[0])
    assert child[0] == donor[0]
    assert child[1] == host[1]
    assert child[2].fields[3] == donor[2].fields[3]
    assert child[3] == host[3]
    assert child[4].fields[2] == "auto_unroll_max_step$16"
    none = graft(layout, hosts.numbers, given, donors.numbers, ~taken)
    np.testing.assert_array_equal(none, hosts.numbers)
    assert not same_shape(layout, layout_of(group_schedules([host[:2]])[0][1].structure))


def test_a_planner_grafts_what_is_good_into_other_structures():
    """Only the structure without a reorder scores; the good tile is known in the other one."""
    part = COLUMNS["part_0"]
    plain = tuple(step for step in SEED if step.kind != "RE")
    good = (*SEED[:1], Step("SP", (2, 4, 128, (2, 1, 64), 1)), *SEED[2:])

    def rank(arrays) -> Scores:
        score = arrays.values[:, 1, part] + 0.01 * (arrays.length < len(SEED))
        return Scores(score, *[score[:, None]] * 3)

    config = PlannerConfig(population=64, generations=1, grafted=1.0, crossed=0.0)
    planner = Planner(PROGRAM, rank, config, np.random.default_rng(0))
    planner.add([plain, good])
    best = planner.plan(lambda scores: scores.score, 1).schedules[0]
    assert len(best) == len(plain)
    assert best[1] == good[1]
