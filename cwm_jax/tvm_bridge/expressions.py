"""Counts arithmetic and finds reads in TIR expressions, of any TVM."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cwm_jax.records.graph import BufferRead
from cwm_jax.tvm_bridge.index_patterns import Positions, digits_of_index, evaluate_index

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
        counts: By `OPERATION_KINDS`; added to.
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
        shape: Of its buffer.
        indices: Into the buffer, one a dimension.
        variables: Of the reader's axes.
        extents: Of the reader's axes.
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
