"""Planning without TVM: moves keep splits whole, evolution finds what scores high."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import schedules
from test_steps import matmul

from cwm_jax.features.replay import COLUMNS
from cwm_jax.features.steps import group_schedules
from cwm_jax.records.steps import Step
from cwm_jax.search.moves import MAX_INNERMOST, UNROLL_STEPS, layout_of, mutate, with_numbers
from cwm_jax.search.planner import PlannerConfig, plan

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

    def score(arrays) -> np.ndarray:
        wanted = np.log2(1 + np.array([6, 32])) / 8
        return -np.abs(arrays.values[:, :2, part] - wanted).sum(1).astype(np.float32)

    config = PlannerConfig(population=256, generations=12)
    found = plan([SEED], PROGRAM, score, 20, config, np.random.default_rng(0))
    best = found.schedules[0]
    assert best[0].fields[3][-1] == 6
    assert best[1].fields[3][-1] == 32
    assert found.scores[0] == pytest.approx(0, abs=1e-6)
    assert len(set(found.schedules)) == len(found.schedules) == 20
    assert (np.diff(found.scores) <= 0).all()
    assert found.imagined > 200
