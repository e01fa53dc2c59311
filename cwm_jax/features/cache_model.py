"""How much data the loops of a stage move: an analytical cache model on integer bookkeeping.

For every depth of a nest, the loops inside it touch some elements of each buffer; the largest
loop body whose data fits a cache is what that cache reuses, so the traffic into the cache is
that body's data times how often the body runs (Lam, Rothberg and Wolf, ASPLOS'91).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from cwm_jax.records.graph import Fold

LINE_BYTES = 64
CAPACITIES = tuple(2**bits for bits in (9, 12, 15, 18, 21, 24))
"""Bytes of the caches for which traffic is estimated, from vector registers to a last level."""

Extents = Float[np.ndarray, "candidate"]
Table = Float[np.ndarray, "depth candidate"]


class Access(NamedTuple):
    """How a stage reads or writes one buffer.

    Attributes:
        strides: For each axis of the stage, how many elements one step along it moves.
        element_bytes: Size of an element.
        packed: Whether the buffer is laid out in the order of the loops.
        folds: Where the access turns over along an axis.
        producer: Slot of the stage that is read; -1 where unknown, and for a write.
    """

    strides: tuple[int, ...]
    element_bytes: float
    packed: bool = False
    folds: tuple[Fold, ...] = ()
    producer: int = -1


class Cover(NamedTuple):
    """A loop's share of one axis: how many steps along it the loop makes."""

    axis: int
    extent: Extents


def split_covers(covers: Sequence[Cover], parts: Sequence[Extents]) -> list[tuple[Cover, ...]]:
    """Shares a loop's axes out to the parts that it is split into.

    Args:
        covers: Covers of the loop, outermost axis first.
        parts: Extents of the parts, outermost first.

    Returns:
        The covers of each part; inner parts take the innermost axes first.
    """
    if len(covers) == 1:
        return [(Cover(covers[0].axis, part),) for part in parts]
    left = [cover.extent for cover in covers]
    shares: list[tuple[Cover, ...]] = []
    for part in reversed(parts):
        rest = part
        taken: list[Cover] = []
        for at in reversed(range(len(covers))):
            share = np.minimum(rest, left[at])
            left[at] = np.ceil(left[at] / np.maximum(share, 1))
            rest = np.ceil(rest / np.maximum(share, 1))
            taken.append(Cover(covers[at].axis, share))
        shares.append(tuple(reversed(taken)))
    return shares[::-1]


def coverage(loops: Sequence[tuple[Cover, ...]], axes: int, candidates: int) -> np.ndarray:
    """Returns how many steps along each axis the loops inside each depth make.

    Args:
        loops: Covers of each loop, outermost first.
        axes: Axes of the stage.
        candidates: Entries of each extent.

    Returns:
        float64 `[depth, axis, candidate]`, depth 0 inside no loop and the last inside all.
    """
    table = np.ones((len(loops) + 1, axes, candidates))
    for depth in reversed(range(len(loops))):
        table[depth] = table[depth + 1]
        for axis, extent in loops[depth]:
            table[depth, axis] *= np.maximum(extent, 1)
    return table


def touched(access: Access, covered: np.ndarray) -> tuple[Table, Table]:
    """Estimates distinct elements and distinct cache lines that an access touches.

    Axes whose steps fall within what finer axes cover already (a convolution's window) extend
    that run; others repeat it.

    Args:
        access: The access.
        covered: As `coverage` returns it.
    """
    order = sorted(
        (digit for digit in _digits(access) if digit.stride > 0), key=lambda digit: digit.stride
    )
    shape = (covered.shape[0], covered.shape[2])
    repeats, run, unit = np.ones(shape), np.ones(shape), np.ones(shape)
    first_run = np.ones(shape)
    is_first = np.ones(shape, bool)
    for axis, stride, period, steps_in_all in order:
        steps = covered[:, axis]
        if period > 1 or np.isfinite(steps_in_all):
            steps = np.clip(np.ceil(steps / period), 1, steps_in_all)
        joins = stride <= run * unit
        joined = run + (steps - 1) * stride / unit
        repeats = np.where(joins, repeats, repeats * run)
        is_first = is_first & joins
        run = np.where(joins, joined, steps)
        unit = np.where(joins, unit, stride)
        first_run = np.where(is_first, run, first_run)
    elements = repeats * run
    per_line = LINE_BYTES / access.element_bytes
    if access.packed:
        return elements, np.ceil(elements / per_line)
    lines = elements / first_run * np.ceil(first_run / per_line)
    return elements, lines


class _Digit(NamedTuple):
    """A part of an axis: the access moves by `stride` every `period` steps of the axis.

    After `steps` such moves the digit begins anew.
    """

    axis: int
    stride: int
    period: int
    steps: float


def _digits(access: Access) -> list[_Digit]:
    digits: list[_Digit] = []
    for axis, stride in enumerate(access.strides):
        folds = [fold for fold in access.folds if fold.axis == axis]
        periods = [1, *(fold.period for fold in folds), np.inf]
        for at, moved in enumerate((stride, *(fold.stride for fold in folds))):
            steps = periods[at + 1] / periods[at]
            digits.append(_Digit(axis, abs(moved), int(periods[at]), steps))
    return digits


class Touched(NamedTuple):
    """What the loops inside each depth touch, outside all loops first.

    Attributes:
        written: Distinct elements of the buffer that the stage writes.
        read: Distinct elements of the buffers that it reads, together.
        lines: Distinct cache lines of all of them.
    """

    written: Table
    read: Table
    lines: Table


def touched_by(accesses: Sequence[Access], loops: Sequence[tuple[Cover, ...]]) -> Touched:
    """Estimates what a stage touches.

    Args:
        accesses: The stage's write, then its reads; all have a stride for each axis.
        loops: Covers of each loop, outermost first; at least one covers an axis.
    """
    candidates = len(next(cover.extent for covers in loops for cover in covers))
    covered = coverage(loops, len(accesses[0].strides), candidates)
    tables = [touched(access, covered) for access in accesses]
    none = np.zeros_like(tables[0][0])
    return Touched(
        written=tables[0][0],
        read=sum((elements for elements, _ in tables[1:]), none),
        lines=sum((lines for _, lines in tables), none),
    )


def traffic(found: Touched, extents: Sequence[Extents]) -> Float[np.ndarray, "capacity candidate"]:
    """Estimates the bytes that enter a cache of each of `CAPACITIES`.

    Args:
        found: Elements that the loops touch.
        extents: Trip counts of the loops, outermost first.
    """
    data = found.lines * LINE_BYTES
    candidates = data.shape[1]
    runs = np.ones_like(data)
    for depth, extent in enumerate(extents):
        runs[depth + 1] = runs[depth] * np.maximum(extent, 1)
    moved = data * runs
    entering = []
    for capacity in CAPACITIES:
        fits = data <= capacity
        fits[-1] = True
        depth = fits.argmax(0)
        entering.append(moved[depth, np.arange(candidates)])
    return np.stack(entering)


def innermost_body(
    found: Touched, extents: Sequence[Extents], reductions: Sequence[bool]
) -> tuple[Extents, Extents]:
    """Estimates the accumulators and operands of the innermost body.

    The body is what the last reduction loop repeats: while its results fit the registers they
    stay there.

    Args:
        found: Elements that the loops touch.
        extents: Trip counts of the loops, outermost first.
        reductions: Whether each loop reduces.

    Returns:
        Distinct elements that the body writes, and that it reads.
    """
    depth = _body_depth(extents, reductions)
    rows = np.arange(len(depth))
    return found.written[depth, rows], found.read[depth, rows]


def _body_depth(
    extents: Sequence[Extents], reductions: Sequence[bool]
) -> Int64[np.ndarray, "candidate"]:
    depth = np.zeros(len(extents[0]), np.int64)
    for at, (extent, reduces) in enumerate(zip(extents, reductions, strict=True)):
        if reduces:
            depth = np.where(extent > 1, at + 1, depth)
    # Without a reduction each point is a body of its own.
    return np.where(depth > 0, depth, len(extents))


class Unrolled(NamedTuple):
    """The loops that the compiler writes out.

    Attributes:
        copies: How often the innermost statement, or vector, is written out.
        written: Distinct elements that the copies write.
        read: Distinct elements that they read.
        whole_body: 1 where they hold all that the last reduction loop repeats: only then can
            its results stay in registers.
    """

    copies: Extents
    written: Extents
    read: Extents
    whole_body: Extents


def unrolled_loops(
    found: Touched,
    extents: Sequence[Extents],
    reductions: Sequence[bool],
    limit: Extents,
    *,
    vectorized: bool,
) -> Unrolled:
    """Follows TVM's pass that unrolls inner loops (`src/tir/transforms/unroll_loop.cc`).

    From the innermost loop outwards all are written out whose copies together stay within a
    limit; a vector counts as one.

    Args:
        found: Elements that the loops touch.
        extents: Trip counts of the loops, outermost first.
        reductions: Whether each loop reduces.
        limit: `auto_unroll_max_step` of each candidate.
        vectorized: Whether the innermost loop is a vector.
    """
    last = len(extents) - vectorized
    copies = np.ones(len(limit))
    depth = np.full(len(limit), last)
    open_ = np.ones(len(limit), bool)
    for at in reversed(range(last)):
        grown = copies * np.maximum(extents[at], 1)
        open_ &= grown <= np.maximum(limit, 1)
        copies = np.where(open_, grown, copies)
        depth = np.where(open_, at, depth)
    rows = np.arange(len(limit))
    whole = depth <= _body_depth(extents, reductions)
    return Unrolled(copies, found.written[depth, rows], found.read[depth, rows], whole * 1.0)


class InnermostStep(NamedTuple):
    """What the innermost step does to the accesses of a stage.

    Attributes:
        stays: Share of accesses that stay where they are.
        next: That move to the next element.
        jumps: That move further.
        gathers: 1 where the innermost loop runs past a fold of any, so that its steps differ and
            a vector must be gathered element by element.
    """

    stays: Extents
    next: Extents
    jumps: Extents
    gathers: Extents


def innermost_step(accesses: Sequence[Access], loops: Sequence[tuple[Cover, ...]]) -> InnermostStep:
    """Returns what the innermost step does to each access.

    Args:
        accesses: Accesses of one stage.
        loops: Covers of each loop, outermost first; at least one covers an axis. Those that make
            one step do not count.
    """
    inside_out = [cover for covers in reversed(loops) for cover in reversed(covers)]
    shares = np.zeros((len(InnermostStep._fields), len(inside_out[0].extent)))
    open_ = np.ones(shares.shape[1], bool)
    for cover in inside_out:
        here = open_ & (cover.extent > 1)
        if here.any():
            some = Cover(cover.axis, cover.extent[here])
            shares[:, here] = _step_shares(accesses, some)
            open_ &= ~here
        if not open_.any():
            break
    shares[0, open_] = 1
    return InnermostStep(*shares)


def _step_shares(accesses: Sequence[Access], cover: Cover) -> Float[np.ndarray, "field candidate"]:
    axis, extent = cover
    moved = [min(abs(access.strides[axis]), 1 if access.packed else 2) for access in accesses]
    gathers = np.zeros(len(extent), bool)
    for access in accesses:
        period = min((fold.period for fold in access.folds if fold.axis == axis), default=0)
        if period and not access.packed:
            gathers |= np.mod(period, np.maximum(extent, 1)) != 0
    shares = [np.full(len(extent), moved.count(kind) / len(moved)) for kind in range(3)]
    return np.stack([*shares, gathers])
