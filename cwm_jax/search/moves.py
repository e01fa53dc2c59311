"""Moves between schedules of one structure: tile sizes and unrolling, as arrays.

They are Ansor's own mutations (`src/auto_scheduler/search_policy/sketch_policy_rules.cc`,
`MutateTileSize` and `MutateAutoUnroll`) for thousands of schedules at once. What they make is
valid wherever Ansor's would be: a tile size moves a divisor from one level of a split to
another, so that the levels still multiply to the loop's extent.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cwm_jax.features.step_features import StepShape
from cwm_jax.records.steps import ANSOR_STEPS, TAGS, Role, Step, fields_of, join_tag

Numbers = Float[np.ndarray, "candidate number"]

UNROLL_STEPS = (0, 16, 64, 512)
"""Ansor's choices of `auto_unroll_max_step` on a CPU."""
MAX_INNERMOST = 64
"""Ansor's largest innermost factor (`max_innermost_split_factor`)."""
_UNROLL_SHARE = 0.1
_UNROLL_TAG = TAGS.index("auto_unroll_max_step")
_MANY = 1 << 16


class Split(NamedTuple):
    """Columns of one split step.

    Attributes:
        extent: Column of the loop's extent.
        factors: Columns of its factors.
        inner: Whether the last factor is innermost; else the rest is.
    """

    extent: int
    factors: tuple[int, ...]
    inner: bool


@dataclasses.dataclass(frozen=True)
class Layout:
    """What each number of a structure means.

    Attributes:
        splits: Splits that have factors.
        unrolls: Columns that hold an unroll limit.
    """

    splits: tuple[Split, ...]
    unrolls: tuple[int, ...]


def layout_of(structure: tuple[StepShape, ...]) -> Layout:
    """Finds the numbers that may be changed."""
    splits: list[Split] = []
    unrolls: list[int] = []
    at = 0
    for shape in structure:
        fields = iter(shape.fields)
        start = at
        count = 0
        for _, role in ANSOR_STEPS[shape.kind]:
            if role is Role.NUMBER:
                at += 1
                continue
            field = next(fields)
            if role is Role.NUMBERS:
                count = int(field)  # type: ignore[arg-type]
                at += count
            elif role is Role.TAG:
                if field == _UNROLL_TAG:
                    unrolls.append(at)
                at += 1
        if shape.kind == "SP" and count:
            inner = bool(shape.fields[-1])
            splits.append(Split(start, tuple(range(start + 1, start + 1 + count)), inner))
    return Layout(tuple(splits), tuple(unrolls))


def mutate(layout: Layout, numbers: Numbers, rng: np.random.Generator) -> Numbers:
    """Returns one child of each schedule, by one move; a schedule without moves stays.

    Args:
        layout: Layout of the structure.
        numbers: Parents.
        rng: Source of the moves.
    """
    children = numbers.copy()
    count = len(numbers)
    if not layout.splits and not layout.unrolls:
        return children
    unrolled = rng.random(count) < (_UNROLL_SHARE if layout.splits else 1.0)
    if layout.unrolls:
        column = np.array(layout.unrolls)[rng.integers(len(layout.unrolls), size=count)]
        chosen = np.array(UNROLL_STEPS)[rng.integers(len(UNROLL_STEPS), size=count)]
        rows = np.flatnonzero(unrolled)
        children[rows, column[rows]] = chosen[rows]
    else:
        unrolled[:] = False
    which = rng.integers(max(len(layout.splits), 1), size=count)
    for at, split in enumerate(layout.splits):
        rows = np.flatnonzero((which == at) & ~unrolled)
        if len(rows):
            children[rows] = _move_divisor(split, children[rows], rng)
    return children


def same_shape(first: Layout, second: Layout) -> bool:
    """Whether two structures have splits into as many factors, and as many unroll limits."""
    return len(first.unrolls) == len(second.unrolls) and [
        (len(split.factors), split.inner) for split in first.splits
    ] == [(len(split.factors), split.inner) for split in second.splits]


def graft(
    layout: Layout,
    numbers: Numbers,
    donor_layout: Layout,
    donors: Numbers,
    taken: Bool[np.ndarray, "candidate part"],
) -> Numbers:
    """Returns schedules with tile sizes and unroll limits of others, perhaps of another structure.

    Within a structure this is a crossover. Across structures it tries what is good in one at
    another compute location, or with other loops in parallel.

    Args:
        layout: Layout of the result's structure.
        numbers: Schedules of it.
        donor_layout: Layout of the donors' structure, of the same shape (`same_shape`).
        donors: A donor for each schedule.
        taken: Which splits, and after them which unroll limits, come from the donor. A split of
            a loop of another extent stays.
    """
    children = numbers.copy()
    for at, (split, given) in enumerate(zip(layout.splits, donor_layout.splits, strict=True)):
        fits = taken[:, at] & (numbers[:, split.extent] == donors[:, given.extent])
        rows = np.flatnonzero(fits)[:, None]
        children[rows, split.factors] = donors[rows, given.factors]
    for at, (column, given) in enumerate(zip(layout.unrolls, donor_layout.unrolls, strict=True)):
        rows = taken[:, len(layout.splits) + at]
        children[rows, column] = donors[rows, given]
    return children


def _move_divisor(split: Split, numbers: Numbers, rng: np.random.Generator) -> Numbers:
    """Moves a divisor of one level, the rest included, to another level."""
    factors = numbers[:, split.factors]
    product = factors.prod(1)
    rest = np.where(product > 0, numbers[:, split.extent] / np.maximum(product, 1), 1)
    rest = np.maximum(np.round(rest), 1)
    order = np.column_stack([rest, factors] if split.inner else [factors, rest]).astype(np.int64)
    rows = np.arange(len(order))
    source = _random_choice(order > 1, rng)
    target = (source + rng.integers(1, order.shape[1], size=len(order))) % order.shape[1]
    divisor = _random_divisor(order[rows, source], rng)
    moved = order.copy()
    moved[rows, source] //= divisor
    moved[rows, target] *= divisor
    allowed = (moved[:, -1] <= MAX_INNERMOST) | (moved[:, -1] <= order[:, -1])
    kept = np.where(allowed[:, None], moved, order)
    result = numbers.copy()
    result[:, split.factors] = kept[:, 1:] if split.inner else kept[:, :-1]
    return result


def _random_choice(
    allowed: Bool[np.ndarray, "row column"], rng: np.random.Generator
) -> Int[np.ndarray, "row"]:
    """A random allowed column of each row; any column where none is."""
    return np.where(allowed, rng.random(allowed.shape), -1.0).argmax(1)


def _random_divisor(
    values: Int[np.ndarray, "row"], rng: np.random.Generator
) -> Int[np.ndarray, "row"]:
    """A random divisor above 1 of each value; 1 of 1."""
    found = np.ones_like(values)
    for value in np.unique(values):
        candidates = np.arange(2, value + 1)
        divisors = candidates[value % candidates == 0] if value <= _MANY else _primes(int(value))
        if len(divisors):
            rows = np.flatnonzero(values == value)
            found[rows] = divisors[rng.integers(len(divisors), size=len(rows))]
    return found


def _primes(value: int) -> Int[np.ndarray, "prime"]:
    """Prime factors, for values too large to list all divisors of."""
    found: list[int] = []
    divisor = 2
    while divisor * divisor <= value and divisor < _MANY:
        while value % divisor == 0:
            found.append(divisor)
            value //= divisor
        divisor += 1
    if value > 1:
        found.append(value)
    return np.array(found, np.int64)


def with_numbers(
    example: tuple[Step, ...], numbers: Float[np.ndarray, "number"]
) -> tuple[Step, ...]:
    """Returns a schedule like `example` with other numbers."""
    values = iter(numbers.tolist())
    steps: list[Step] = []
    for step in example:
        fields: list[int | str | tuple[int, ...] | None] = []
        for (_, role), value in fields_of(step.kind, step.fields):
            if role is Role.NUMBER:
                number = int(next(values))
                fields.append(None if value is None else number)
            elif role is Role.NUMBERS:
                fields.append(tuple(int(next(values)) for _ in value))  # type: ignore[union-attr]
            elif role is Role.TAG:
                fields.append(join_tag(value, int(next(values))))  # type: ignore[arg-type]
            else:
                fields.append(value)  # type: ignore[arg-type]
        steps.append(Step(step.kind, tuple(fields)))  # type: ignore[arg-type]
    return tuple(steps)
