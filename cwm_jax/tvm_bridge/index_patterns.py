"""How a buffer index that is not affine moves: by evaluating it, for any TVM.

Blocked layouts and grouped convolutions index by quotients and remainders of an axis. Such an
index moves like the digits of a number: `BufferRead.folds` notes when each digit turns over.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from cwm_jax.records.graph import Fold

_SAMPLES = 4096
_MAX_FOLDS = 3
_CHECKS = 64

Positions = Int64[np.ndarray, "sample"]


def digits_of_index(
    offset: Callable[[Sequence[Positions]], Positions], extents: Sequence[int]
) -> tuple[tuple[int, ...], tuple[Fold, ...]] | None:
    """Describes an offset by the stride of each axis and its folds.

    Args:
        offset: Positions along each axis -> position in the buffer.
        extents: Of the axes.

    Returns:
        None where the offset is no sum of such patterns.
    """
    start = [np.zeros(1, np.int64) for _ in extents]
    origin = int(offset(start)[0])
    strides, folds = [], []
    for axis, extent in enumerate(extents):
        steps = np.arange(min(extent, _SAMPLES))
        along = [np.zeros_like(steps) for _ in extents]
        along[axis] = steps
        moved = offset(along) - origin
        strides.append(int(moved[1]) if extent > 1 else 0)
        found = _folds(moved, axis, strides[axis])
        if found is None:
            return None
        folds.extend(found)
    points = np.random.default_rng(0).integers(0, extents, (_CHECKS, len(extents))).T
    separate = sum(
        (_moved(points[axis], axis, stride, folds) for axis, stride in enumerate(strides)),
        np.zeros(_CHECKS, np.int64),
    )
    if (offset(list(points)) - origin != separate).any():
        return None
    return tuple(strides), tuple(folds)


def _folds(moved: Positions, axis: int, stride: int) -> list[Fold] | None:
    steps = np.arange(len(moved))
    folds: list[Fold] = []
    while True:
        wrong = np.flatnonzero(moved != _moved(steps, axis, stride, folds))
        if len(wrong) == 0:
            return folds
        period = int(wrong[0])
        last = folds[-1].period if folds else 1
        if len(folds) == _MAX_FOLDS or period % last:
            return None
        folds.append(Fold(axis, period, int(moved[period])))


def _moved(steps: Positions, axis: int, stride: int, folds: Sequence[Fold]) -> Positions:
    mine = [fold for fold in folds if fold.axis == axis]
    periods = [1, *(fold.period for fold in mine)]
    moved = np.zeros_like(steps)
    for at, digit_stride in enumerate([stride, *(fold.stride for fold in mine)]):
        digit = steps // periods[at]
        if at + 1 < len(periods):
            digit = digit % (periods[at + 1] // periods[at])
        moved = moved + digit * digit_stride
    return moved


def evaluate_index(index: Any, variables: Sequence[Any], values: Sequence[Positions]) -> Positions:
    """Evaluates an index expression on many points.

    Args:
        index: TIR expression.
        variables: Of the axes.
        values: Of each variable.

    Raises:
        ValueError: The expression reads data, or is of a kind that indices seldom are; or there
            is no axis.
    """
    if not values:
        raise ValueError("no axis moves the index")

    def evaluate(node: Any) -> Any:
        kind = type(node).__name__
        if kind == "IntImm":
            return np.full_like(values[0], int(node.value))
        if kind in ("Var", "SizeVar"):
            for variable, value in zip(variables, values, strict=True):
                if node.same_as(variable):
                    return value
            raise ValueError(f"unknown variable {node}")
        if kind == "Cast":
            return evaluate(node.value)
        if kind == "Select":
            taken = evaluate(node.condition)
            return np.where(taken, evaluate(node.true_value), evaluate(node.false_value))
        if kind == "Call" and str(getattr(node.op, "name", "")).endswith("if_then_else"):
            condition, true_value, false_value = (evaluate(part) for part in node.args)
            return np.where(condition, true_value, false_value)
        if kind not in _BINARY:
            raise ValueError(f"{kind} in an index")
        return _BINARY[kind](evaluate(node.a), evaluate(node.b))

    return evaluate(index)


def _quotient(a: Positions, b: Positions) -> Positions:
    return a // np.maximum(b, 1)


def _remainder(a: Positions, b: Positions) -> Positions:
    return a % np.maximum(b, 1)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    # Positions are not negative, where the kinds of division agree.
    "Div": _quotient,
    "FloorDiv": _quotient,
    "Mod": _remainder,
    "FloorMod": _remainder,
    "Min": np.minimum,
    "Max": np.maximum,
    "EQ": np.equal,
    "NE": np.not_equal,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
}
