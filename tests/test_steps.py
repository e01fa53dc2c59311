"""Encoding of schedules: stage ids, loop extents, padding, and grouping."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graphs import SHAPE_ONLY, matmul
from support.strategies import schedules

from cwm_jax.errors import RecordError
from cwm_jax.features.batch import cut_groups, encode_groups, encode_schedules, group_schedules
from cwm_jax.features.columns import COLUMNS
from cwm_jax.features.schedule_state import ScheduleState
from cwm_jax.features.step_features import Replay
from cwm_jax.records.graph import Axis, BufferRead, ComputeGraph, Stage
from cwm_jax.records.steps import STEP_KIND_IDS, Step


def size(arrays, at: int, column: str) -> float:
    """A size column of the first candidate, decoded."""
    return 2 ** (8 * float(arrays.values[0, at, COLUMNS[column]])) - 1


def test_inserted_stages_shift_ids_but_not_slots():
    schedule = (
        Step("CHW", (2, "local")),  # the result is copied out by a new stage with id 3
        Step("SP", (2, 0, 64, (4, 8), 1)),
        Step("SP", (3, 0, 64, (16,), 1)),
        Step("CHR", (0, "shared", (2,))),  # a copy of A takes id 1: B is 2, C is 3
        Step("AN", (3, 0, 3)),
        Step("AN", (1, 0, 2)),
    )
    arrays = encode_schedules([schedule], matmul(64, 64, 32))
    assert arrays.stage[0, :6].tolist() == [3, 2, 3, 4, 2, 4]
    assert arrays.other[0, :6].tolist() == [2, 2, 3, 0, 2, 4]


def test_split_extents_and_factors():
    schedule = (
        Step("SP", (2, 1, 96, (2, 16), 1)),  # j: 3 x 2 x 16
        Step("FU", (2, (0, 1))),  # i * 3
        Step("AN", (2, 0, 3)),
    )
    arrays = encode_schedules([schedule], matmul(64, 96, 32))
    assert size(arrays, 0, "extent") == pytest.approx(96, rel=1e-4)
    assert size(arrays, 0, "factor_product") == pytest.approx(32, rel=1e-4)
    assert [size(arrays, 0, f"part_{n}") for n in range(3)] == pytest.approx([16, 2, 3], rel=1e-4)
    assert arrays.values[0, 0, COLUMNS["divisible"]] == 1
    assert size(arrays, 2, "extent") == pytest.approx(64 * 3, rel=1e-4)
    assert size(arrays, 2, "inner_product") == pytest.approx(2 * 16 * 32, rel=1e-4)


def test_followed_splits_take_the_factors_of_their_source():
    schedule = (
        Step("CHW", (2, "local")),
        Step("SP", (2, 0, 64, (2, 4, 2), 1)),
        Step("SP", (2, 4, 96, (3, 4, 8), 1)),
        Step("FSP", (3, 0, 1, 2)),
        Step("FFSP", (3, 2, (1, 2), 1, 1)),
    )
    arrays = encode_schedules([schedule], matmul(64, 96, 32))
    # Two parts: the first factor as it is, the product of the others.
    assert [size(arrays, 3, f"part_{n}") for n in range(3)] == pytest.approx([8, 2, 4], rel=1e-4)
    assert size(arrays, 4, "factor_product") == pytest.approx(4 * 4, rel=1e-4)


def test_reorder_moves_the_reduction():
    arrays = encode_schedules([(Step("RE", (2, (2, 0, 1))),)], matmul(4, 8, 16))
    row = arrays.values[0, 0]
    assert row[COLUMNS["innermost_0_reduction"]] == 0
    assert row[COLUMNS["innermost_2_reduction"]] == 1
    assert [size(arrays, 0, f"innermost_{n}") for n in range(3)] == pytest.approx([8, 4, 16])


def test_rfactor_makes_a_reduction_spatial():
    state = ScheduleState(matmul(4, 8, 16), 1)
    state.split(0, 2, 2, [np.array([4.0])], inner=True)
    final = state.rfactor(2, 3, 2)
    partial = state.nest(2)
    assert [(loop.extent[0], loop.reduction) for loop in partial.loops] == [
        (4, False),
        (8, False),
        (4, False),
        (4, True),
    ]
    assert [(loop.extent[0], loop.reduction) for loop in final.loops] == [
        (4, False),
        (8, False),
        (4, True),
    ]
    assert (partial.slot, final.slot, state.nest(3).slot) == (2, 3, 3)


def padded_matmul() -> ComputeGraph:
    """A 4 x 8 x 16 product that reads A through a stage that pads it."""

    def placeholder(name: str, shape: tuple[int, ...]) -> Stage:
        return Stage(name, "placeholder", "", "float32", shape, (), (), (0,) * 7)

    selects = (0, 0, 0, 0, 1, 0, 0)
    i, j, k = Axis("i", 4, False), Axis("j", 8, False), Axis("k", 16, True)
    pad_axes = (i, Axis("k", 16, False))
    pad = Stage(
        "pad", "compute", "", "float32", (4, 16), pad_axes, (BufferRead(0, (16, 1), True),), selects
    )
    product = Stage(
        "C",
        "compute",
        "",
        "float32",
        (4, 8),
        (i, j, k),
        (BufferRead(1, (16, 0, 1), True), BufferRead(2, (0, 1, 8), True)),
        (1, 1, 0, 0, 0, 0, 0),
    )
    stages = (placeholder("A", (4, 16)), pad, placeholder("B", (16, 8)), product)
    return ComputeGraph('["padded"]', stages, 2.0 * 4 * 8 * 16)


def test_a_stage_under_a_loop_computes_what_that_loop_needs():
    """Under i.0 of C each run needs two rows of pad; under j it computes a row eight times."""
    schedule = (
        Step("SP", (3, 0, 4, (2,), 1)),
        Step("CA", (1, 3, 0)),
    )
    arrays = encode_schedules([schedule], padded_matmul())
    assert size(arrays, 1, "attached_runs") == pytest.approx(2)
    assert size(arrays, 1, "attached_elements") == pytest.approx(2 * 16, rel=1e-4)
    assert size(arrays, 1, "repeats") == pytest.approx(1)
    under_j = encode_schedules([(Step("CA", (1, 3, 1)),)], padded_matmul())
    assert size(under_j, 0, "attached_runs") == pytest.approx(4 * 8, rel=1e-4)
    assert size(under_j, 0, "attached_elements") == pytest.approx(16, rel=1e-4)
    assert size(under_j, 0, "repeats") == pytest.approx(8, rel=1e-4)


def test_an_inlined_stage_is_repeated_by_its_reader():
    arrays = encode_schedules([(Step("CI", (1,)),)], padded_matmul())
    assert arrays.other[0, 0] == 3
    assert size(arrays, 0, "repeats") == pytest.approx(8, rel=1e-4)
    assert arrays.values[0, 0, COLUMNS["inlined_selects"]] == 1
    assert arrays.values[0, 0, COLUMNS["reduction"]] == 1


@given(schedules(max_size=12).filter(bool))
def test_a_schedule_is_encoded_alone_as_in_a_batch(schedule):
    other = (Step("CI", (1,)), *schedule, Step("SP", (0, 0, 640, (5, 2), 1)))
    alone = encode_schedules([schedule], SHAPE_ONLY)
    together = encode_schedules([other, schedule, schedule], SHAPE_ONLY)
    steps = len(schedule)
    for name in ("kind", "tag", "stage", "other", "values"):
        for row in (1, 2):
            np.testing.assert_array_equal(
                getattr(alone, name)[0, :steps], getattr(together, name)[row, :steps]
            )
    assert together.length.tolist() == [steps + 2, steps, steps]


@given(schedules(max_size=6), st.lists(schedules(max_size=4), min_size=2, max_size=6))
def test_schedules_that_begin_alike_are_encoded_as_alone(start, ends):
    batch = [*(start + end for end in ends), start, ends[0] + start]
    for graph in (SHAPE_ONLY, padded_matmul()):
        together = encode_schedules(batch, graph)
        assert together.length.tolist() == [*map(len, batch)]
        for row, schedule in enumerate(batch):
            alone = encode_schedules([schedule], graph)
            for name in ("kind", "tag", "stage", "other", "values"):
                found = getattr(together, name)[row]
                np.testing.assert_array_equal(
                    getattr(alone, name)[0, : len(schedule)], found[: len(schedule)]
                )
                assert not found[len(schedule) :].any()


def test_what_schedules_begin_with_is_replayed_once(monkeypatch):
    start = (Step("SP", (2, 0, 64, (4, 8), 1)), Step("SP", (2, 3, 64, (8,), 1)))
    ends = [Step("AN", (2, 0, 3)), Step("AN", (2, 1, 2)), Step("FU", (2, (0, 1)))]
    applied = []
    apply = Replay.apply

    def note(self, at, shape):
        applied.append(at)
        apply(self, at, shape)

    monkeypatch.setattr(Replay, "apply", note)
    encode_schedules([(*start, end) for end in ends] * 2, matmul(64, 64, 32))
    assert sorted(applied) == [0, 1, 2, 2, 2]


@given(schedules())
def test_any_schedule_gives_finite_values_and_slots_in_range(schedule):
    for graph in (SHAPE_ONLY, matmul(64, 64, 64)):
        arrays = encode_schedules([schedule], graph)
        assert np.isfinite(arrays.values).all()
        assert max(arrays.stage.max(), arrays.other.max()) < arrays.slots
        assert (arrays.kind[0] > 0).sum() == len(schedule)
        assert arrays.kind[0, : len(schedule)].tolist() == [
            STEP_KIND_IDS[step.kind] for step in schedule
        ]


@settings(max_examples=20)
@given(st.lists(schedules(max_size=8), min_size=1, max_size=12), st.integers(1, 5))
def test_groups_are_cut_into_batches_that_hold_every_schedule_once(batch, size):
    batch = batch * 2
    whole = encode_schedules(batch, SHAPE_ONLY)
    rows: list[int] = []
    for chosen, groups in cut_groups(group_schedules(batch), size):
        assert 0 < len(chosen) <= size
        rows += chosen.tolist()
        part = encode_groups(groups, SHAPE_ONLY)
        np.testing.assert_array_equal(part.length, whole.length[chosen])
        for name in ("kind", "tag", "stage", "other", "values"):
            found = getattr(part, name)
            np.testing.assert_array_equal(found, getattr(whole, name)[chosen, : found.shape[1]])
    assert sorted(rows) == list(range(len(batch)))


@settings(max_examples=20)
@given(schedules(max_size=8))
def test_order_of_candidates_is_kept(schedule):
    batch = [schedule, (Step("CI", (0,)),), schedule[::-1], schedule]
    arrays = encode_schedules(batch, SHAPE_ONLY)
    swapped = encode_schedules(batch[::-1], SHAPE_ONLY)
    np.testing.assert_array_equal(arrays.values[::-1], swapped.values)
    np.testing.assert_array_equal(arrays.stage[::-1], swapped.stage)


@pytest.mark.parametrize(
    "step", [Step("CI", (5000,)), Step("AN", (0, 100000, 3)), Step("RE", (0, (2**31 - 1,)))]
)
def test_absurd_ids_are_refused(step):
    with pytest.raises(RecordError, match="at most"):
        encode_schedules([(step,)], SHAPE_ONLY)
