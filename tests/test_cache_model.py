"""The analytical cache model, against counting by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.features.cache_model import (
    CAPACITIES,
    Access,
    Cover,
    coverage,
    innermost_body,
    innermost_step,
    split_covers,
    touched,
    touched_by,
    traffic,
    unrolled_loops,
)
from cwm_jax.records.graph import Fold

SIZES = st.integers(1, 6)


def arrays(*values: int) -> list[np.ndarray]:
    return [np.array([float(value)]) for value in values]


def distinct(strides: tuple[int, ...], extents: tuple[int, ...]) -> int:
    points = itertools.product(*map(range, extents))
    return len({sum(s * x for s, x in zip(strides, point, strict=True)) for point in points})


@given(st.tuples(SIZES, SIZES, SIZES), st.integers(6, 40), st.integers(6, 40))
def test_matrix_product_touches_what_it_touches(tile, columns, inner):
    covered = np.array(tile, float)[None, :, None]
    for strides in ((inner, 0, 1), (0, 1, columns), (columns, 1, 0)):
        elements, _ = touched(Access(strides, 4), covered)
        assert elements[0, 0] == distinct(strides, tile)


@given(st.tuples(SIZES, SIZES, SIZES, SIZES), st.integers(1, 2), SIZES)
def test_windows_of_a_convolution_overlap(tile, stride, channels):
    """Axes y, x, dy, dx, c of an image of 32 columns; kernels step by one."""
    y, x, dy, dx = tile
    dy, dx = max(dy, stride), max(dx, stride)  # a kernel smaller than the stride leaves gaps
    row = 32 * channels
    strides = (stride * row, stride * channels, row, channels, 1)
    extents = (y, x, dy, dx, channels)
    elements, _ = touched(Access(strides, 4), np.array(extents, float)[None, :, None])
    assert elements[0, 0] == distinct(strides, extents)


def test_lines_are_counted_by_the_run():
    whole, _ = [f[0, 0] for f in touched(Access((100, 1), 4), np.array([[[8.0], [32.0]]]))]
    assert whole == 8 * 32
    covered = np.array([[[8.0], [32.0]]])
    assert touched(Access((100, 1), 4), covered)[1][0, 0] == 8 * 2
    assert touched(Access((1, 100), 4), covered)[1][0, 0] == 32


@given(st.lists(SIZES, min_size=1, max_size=3), st.lists(st.integers(1, 4), max_size=3))
def test_a_fused_loop_covers_the_same_axes_once_split(extents, factors):
    covers = [Cover(at, part) for at, part in enumerate(arrays(*extents))]
    total = int(np.prod(extents))
    inner = int(np.prod(factors, dtype=int))
    parts = arrays(-(-total // inner), *factors)
    shares = split_covers(covers, parts)
    assert len(shares) == len(parts)
    covered = coverage(shares, len(extents), 1)[0, :, 0]
    assert covered.prod() >= total
    if extents[-1] % inner == 0:
        assert covered.tolist() == extents


def test_blocking_saves_traffic():
    """A 512^3 product: the naive order streams B from memory once a row, blocks reuse it."""
    size, block = 512, 32
    accesses = (Access((size, 1, 0), 4), Access((size, 0, 1), 4), Access((0, 1, size), 4))
    i, j, k = (Cover(axis, np.array([float(size)])) for axis in range(3))
    naive = traffic(touched_by(accesses, [(i,), (j,), (k,)]), arrays(size, size, size))
    outer, inner = arrays(size // block, block)
    blocked = [(Cover(axis, outer),) for axis in range(3)]
    blocked += [(Cover(axis, inner),) for axis in range(3)]
    extents = [outer] * 3 + [inner] * 3
    tiled = traffic(touched_by(accesses, blocked), extents)
    cache = CAPACITIES.index(2**15)
    assert tiled[cache, 0] < naive[cache, 0] / 8
    whole = 3 * size * size * 4
    assert naive[-1, 0] == tiled[-1, 0] == pytest.approx(whole)


@given(st.lists(st.integers(1, 64), min_size=3, max_size=3))
def test_a_larger_cache_never_sees_more_traffic(tile):
    accesses = (Access((64, 1, 0), 4), Access((64, 0, 1), 4), Access((0, 1, 64), 4))
    loops = [(Cover(axis, extent),) for axis, extent in enumerate(arrays(*tile))]
    moved = traffic(touched_by(accesses, loops), arrays(*tile))[:, 0]
    assert (np.diff(moved) <= 1e-6 * moved[:-1]).all()


def test_strides_of_the_innermost_axis():
    """i, j and k of a matrix product; for the second candidate k makes one step, so j counts."""
    weight = Access((0, 1, 8), 4)
    accesses = (Access((8, 1, 0), 4), Access((8, 0, 1), 4), weight)
    loops = [(Cover(axis, np.array([8.0, steps])),) for axis, steps in enumerate((8, 8, 1))]
    k, j = np.array(innermost_step(accesses, loops)).T
    assert k == pytest.approx((1 / 3, 1 / 3, 1 / 3, 0))
    assert j == pytest.approx((1 / 3, 2 / 3, 0, 0))
    packed = (*accesses[:2], weight._replace(packed=True))
    stays, following, jumps, _ = innermost_step(packed, loops)
    assert (stays[0], following[0], jumps[0]) == pytest.approx((1 / 3, 2 / 3, 0))


def test_a_packed_weight_fills_its_lines():
    covered = np.array([[[8.0], [4.0]]])
    strided = Access((1, 100), 4)
    assert touched(strided, covered)[1][0, 0] == 4
    assert touched(strided._replace(packed=True), covered)[1][0, 0] == 2


@given(SIZES, SIZES, st.integers(1, 6))
def test_the_innermost_body_is_what_the_last_reduction_repeats(rows, columns, steps):
    """i.0 j.0 k.0 i.1 k.1 j.1 of a matrix product: the body is j.1, or below k.0 if k.1 is 1."""
    accesses = (Access((64, 1, 0), 4), Access((64, 0, 1), 4), Access((0, 1, 64), 4))
    extents = arrays(4, 4, 8, rows, steps, columns)
    loops = [
        (Cover(axis, extent),) for axis, extent in zip((0, 1, 2, 0, 2, 1), extents, strict=True)
    ]
    reductions = [False, False, True, False, True, False]
    written, read = innermost_body(touched_by(accesses, loops), extents, reductions)
    height = rows if steps == 1 else 1
    assert written[0] == height * columns
    assert read[0] == height + columns


def test_without_a_reduction_each_point_is_a_body():
    accesses = (Access((8, 1), 4), Access((8, 1), 4))
    extents = arrays(8, 8)
    loops = [(Cover(axis, extent),) for axis, extent in enumerate(extents)]
    written, read = innermost_body(touched_by(accesses, loops), extents, [False, False])
    assert written[0] == read[0] == 1


@given(st.integers(1, 40), st.sampled_from((2, 4, 8)), st.integers(0, 3), st.integers(24, 40))
def test_a_blocked_layout_touches_what_it_touches(steps, period, stride, jump):
    """Axis c at `c // period * jump + c % period * stride`."""
    covered = np.array([float(steps)])[None, None, :]
    access = Access((stride,), 4, folds=(Fold(0, period, jump),))
    elements, _ = touched(access, covered)
    # The last block counts whole.
    whole = -(-steps // period) * period if steps > period else steps
    points = {c // period * jump + c % period * stride for c in range(whole)}
    assert elements[0, 0] == len(points)


def test_a_vector_past_a_fold_gathers():
    """Eight channels a group share their input; twelve or sixteen lanes reach into the next."""
    access = Access((0,), 4, folds=(Fold(0, 8, 8),))
    step = innermost_step((access,), [(Cover(0, np.array([4.0, 8.0, 12.0, 16.0])),)])
    assert step.stays.tolist() == [1, 1, 1, 1]
    assert step.gathers.tolist() == [0, 0, 1, 1]


@given(SIZES, SIZES, SIZES, st.integers(0, 64), st.booleans())
def test_inner_loops_are_written_out_up_to_the_limit(rows, steps, columns, limit, vectorized):
    """i.0 k i.1 j of a matrix product; loops of one step are written out in any case."""
    accesses = (Access((64, 1, 0), 4), Access((64, 0, 1), 4), Access((0, 1, 64), 4))
    extents = arrays(7, steps, rows, columns)
    axes = (0, 2, 0, 1)
    loops = [(Cover(axis, extent),) for axis, extent in zip(axes, extents, strict=True)]
    found = unrolled_loops(
        touched_by(accesses, loops),
        extents,
        [axis == 2 for axis in axes],
        np.array([float(limit)]),
        vectorized=vectorized,
    )
    inside_out = [rows, steps, 7] if vectorized else [columns, rows, steps, 7]
    counts = [int(np.prod(inside_out[:depth], dtype=int)) for depth in range(len(inside_out) + 1)]
    taken = max(d for d, count in enumerate(counts) if count <= max(limit, 1))
    assert found.copies[0] == counts[taken]
    taken += vectorized
    height = (rows if taken >= 2 else 1) * (7 if taken == 4 else 1)
    width = columns if taken >= 1 else 1
    inner = steps if taken >= 3 else 1
    assert found.written[0] == height * width
    assert found.read[0] == height * inner + inner * width
    # Below k lie i.1 and j; where k makes one step, nothing repeats.
    assert found.whole_body[0] == (steps == 1 or taken >= 2)
