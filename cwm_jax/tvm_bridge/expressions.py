"""Counts arithmetic and finds reads in TIR expressions, of any TVM."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from cwm_jax.records.graph import (
    OPERATION_KINDS,
    BufferRead,
    Fold,
)

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
        extents: Extents of the axes.

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
        variables: Variables of the axes.
        values: Values of each variable.

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


# Kinds of TIR nodes that have operands `a` and `b` (`a` alone for Not).
_KIND_OF_NODE = {
    "Add": "add",
    "Sub": "add",
    "Mul": "multiply",
    "Div": "divide",
    "Mod": "integer",
    "FloorDiv": "integer",
    "FloorMod": "integer",
    "Min": "compare",
    "Max": "compare",
    "EQ": "compare",
    "NE": "compare",
    "LT": "compare",
    "LE": "compare",
    "GT": "compare",
    "GE": "compare",
    "And": "compare",
    "Or": "compare",
    "Not": "compare",
}
_FREE_CALLS = ("likely", "reinterpret")
_LOADS = ("ProducerLoad", "TensorLoad")


def visit_expression(
    expression: Any, counts: dict[str, int], on_load: Callable[[Any], None]
) -> None:
    """Counts operations and reports reads; arithmetic inside buffer indices does not count.

    Args:
        expression: TIR expression.
        counts: Counts by `OPERATION_KINDS`; added to.
        on_load: Called with every load.
    """
    node = type(expression).__name__
    if node in _LOADS:
        on_load(expression)
        return
    kind = _KIND_OF_NODE.get(node)
    if node == "Select":
        kind = "select"
    elif node == "Call":
        kind = _kind_of_call(str(getattr(expression.op, "name", "")))
    if kind is not None:
        # Conditions count as such even on indices: padding costs comparisons.
        is_float = dtype_of(expression).startswith(("float", "bfloat"))
        counts[kind if is_float or kind in ("compare", "select") else "integer"] += 1
    for child in children_of(expression):
        visit_expression(child, counts, on_load)


def children_of(expression: Any) -> list[Any]:
    """Returns the operands of an expression; of a read none, since its indices are no operands."""
    node = type(expression).__name__
    match node:
        case "Reduce":
            return [*expression.source, *expression.combiner.result, expression.condition]
        case "Select":
            return [expression.condition, expression.true_value, expression.false_value]
        case "Call":
            return list(expression.args)
        case "Cast":
            return [expression.value]
        case "Let":
            return [expression.value, expression.body]
        case "Not":
            return [expression.a]
        case _ if node in _KIND_OF_NODE:
            return [expression.a, expression.b]
        case _:
            return []


def dtype_of(expression: Any) -> str:
    """Returns the dtype of an expression or buffer, which newer TVMs keep in its type."""
    found = getattr(expression, "dtype", None)
    # A pointer has none.
    return str(found if found is not None else getattr(expression.ty, "dtype", "handle"))


def _kind_of_call(name: str) -> str | None:
    plain = name.rpartition(".")[2]
    if plain == "if_then_else":
        return "select"
    return None if plain in _FREE_CALLS else "special"


def read_of(
    producer: int,
    shape: Sequence[int],
    indices: Sequence[Any],
    variables: Sequence[Any],
    extents: Sequence[int],
    coefficients: Callable[[Any], list[int] | None],
) -> BufferRead:
    """Describes a read by the stride of each axis, and where it folds.

    Args:
        producer: Position of the stage that is read.
        shape: Shape of its buffer.
        indices: Into the buffer, one a dimension.
        variables: Variables of the reader's axes.
        extents: Extents of the reader's axes.
        coefficients: Index -> its coefficient for each axis, None where it is not affine.
    """
    strides = [0] * len(variables)
    steps = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
    for step, index in zip(steps, indices, strict=True):
        found = coefficients(index)
        if found is None:
            return _folded_read(producer, steps, indices, variables, extents)
        for at, coefficient in enumerate(found):
            strides[at] += coefficient * step
    return BufferRead(producer, tuple(strides), affine=True)


def _folded_read(
    producer: int,
    steps: Sequence[int],
    indices: Sequence[Any],
    variables: Sequence[Any],
    extents: Sequence[int],
) -> BufferRead:
    def offset(values: Sequence[Positions]) -> Positions:
        parts = [
            evaluate_index(index, variables, values) * step
            for step, index in zip(steps, indices, strict=True)
        ]
        return np.sum(parts, axis=0)

    try:
        found = digits_of_index(offset, extents)
    except ValueError:
        found = None
    if found is None:
        return BufferRead(producer, (0,) * len(extents), affine=False)
    strides, folds = found
    # Quotients and remainders may cancel out: `c // 8 * 8 + c % 8`.
    return BufferRead(producer, strides, affine=not folds, folds=folds)


def parts_of(statement: Any) -> list[Any]:
    """Statements inside a statement, but those of loops and blocks."""
    match type(statement).__name__:
        case "SeqStmt":
            return list(statement.seq)
        case "IfThenElse":
            cases = (statement.then_case, statement.else_case)
            return [case for case in cases if case is not None]
        case "AttrStmt" | "While":
            return [statement.body]
        case _:
            return []


class BlockBody:
    """What the statements of a block do, but those of blocks inside it.

    Attributes:
        simple: Whether all it does is one store.
        writes: Buffers that it writes.
        indices: Indices of the first store.
        loads: Buffers that it reads, with the indices.
        opaque_reads: Buffers that it reads, though not by an index of its own.
        operations: How many of each of `OPERATION_KINDS` one point costs.
    """

    def __init__(self, block: Any) -> None:
        self.simple = type(block.body).__name__ == "BufferStore"
        self.operations: dict[str, int] = dict.fromkeys(OPERATION_KINDS, 0)
        self.indices: list[Any] = []
        self._seen: list[tuple[Any, list[Any]]] = []
        self._own = list(block.alloc_buffers)
        self._aliases = {match.buffer: match.source.source for match in block.match_buffers}
        stored: dict[Any, None] = {}
        self._visit(block.body, self.operations, stored)
        if not self.simple:
            # Calls write what the block says, and blocks inside it what they compute for it.
            stored |= dict.fromkeys(region.source for region in block.writes)
        self.writes = [buffer for buffer in stored if not self._is_own(buffer)]
        known = {buffer for buffer, _ in self._seen}
        self.loads = [
            (buffer, indices)
            for buffer, indices in self._seen
            if buffer not in self._aliases and buffer not in stored and not self._is_own(buffer)
        ]
        regions = [] if self.simple else [region.source for region in block.reads]
        self.opaque_reads = [
            buffer for buffer in regions if buffer not in known and buffer not in self.writes
        ]

    def _is_own(self, buffer: Any) -> bool:
        return any(buffer.same_as(own) for own in self._own)

    def _expression(self, expression: Any, operations: dict[str, int]) -> None:
        visit_expression(
            expression,
            operations,
            lambda load: self._seen.append((load.source, list(load.indices))),
        )

    def _visit(self, statement: Any, operations: dict[str, int], stored: dict[Any, None]) -> None:
        kind = type(statement).__name__
        if kind == "BufferStore":
            if not stored:
                self.indices = list(statement.indices)
            stored[self._aliases.get(statement.buffer, statement.buffer)] = None
            self._expression(statement.value, operations)
        elif kind == "For":
            inside = dict.fromkeys(operations, 0)
            self._visit(statement.body, inside, stored)
            extent = statement.extent
            times = int(extent.value) if type(extent).__name__ == "IntImm" else 1
            for name, count in inside.items():
                operations[name] += count * times
        elif kind in ("Evaluate", "Bind"):
            self._expression(statement.value, operations)
        elif kind in ("AllocBuffer", "DeclBuffer"):
            self._own.append(statement.buffer)
        elif kind != "SBlockRealize":
            if kind in ("IfThenElse", "While"):
                operations["select"] += 1
                self._expression(statement.condition, operations)
            for part in parts_of(statement):
                self._visit(part, operations, stored)
