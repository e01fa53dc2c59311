"""Ansor's compute graphs -> `Program`."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.errors import ProgramError
from cwm_jax.records.program import OPERATION_KINDS, Axis, BufferRead, Program, ProgramStage

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
NO_REWRITE = 0
"""`auto_scheduler.LayoutRewriteOption` of tasks whose weights stay as they are."""

_PACKED_ATTRIBUTE = "layout_free_placeholders"
_FREE_CALLS = ("tir.likely", "tir.reinterpret")


def program_of_task(tvm: Any, task: Any) -> Program:
    """Converts the compute graph of an `auto_scheduler.SearchTask`."""
    packed = int(task.layout_rewrite_option) != NO_REWRITE
    return program_of_dag(tvm, task.compute_dag, task.workload_key, packed=packed)


def program_of_dag(tvm: Any, dag: Any, workload_key: str, *, packed: bool) -> Program:
    """Converts an `auto_scheduler.ComputeDAG`; stages are in the order of its stage ids.

    Args:
        tvm: A TVM with Ansor.
        dag: The compute graph.
        workload_key: Its key.
        packed: Whether weights that may be laid out anew are (`LayoutRewriteOption`).
    """
    operations = [stage.op for stage in dag.get_init_state().stages]
    positions = {operation: at for at, operation in enumerate(operations)}
    stages = tuple(_stage(tvm, operation, positions, packed) for operation in operations)
    return Program(workload_key, stages, float(dag.flop_ct))


def programs_of_tasks_file(tvm: Any, path: Path) -> Iterator[Program]:
    """Converts a file of tasks, JSON lines with `workload_key` and `tensors` (TVM's JSON).

    Where a line has no `layout_rewrite` it is a network's task, whose weights are packed on CPUs.

    Raises:
        ProgramError: The file cannot be read, or a line is no task.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    task = orjson.loads(line)
                    tensors = list(tvm.ir.load_json(task["tensors"]))
                    dag = tvm.auto_scheduler.ComputeDAG(tensors)
                    packed = task.get("layout_rewrite", 1) != NO_REWRITE
                    yield program_of_dag(tvm, dag, task["workload_key"], packed=packed)
                except (orjson.JSONDecodeError, KeyError, TypeError, tvm.TVMError) as error:
                    raise ProgramError(f"{path}:{number}: not a task ({error})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ProgramError(f"{path}: cannot be read ({error})") from error


def _stage(tvm: Any, operation: Any, positions: dict[Any, int], packed: bool) -> ProgramStage:
    output = operation.output(0)
    is_compute = isinstance(operation, tvm.te.ComputeOp)
    shape = tuple(_integer(tvm, extent) for extent in output.shape)
    name, tag, dtype = str(operation.name), str(operation.tag), str(output.dtype)
    if not is_compute:
        none = (0,) * len(OPERATION_KINDS)
        return ProgramStage(name, "placeholder", tag, dtype, shape, (), (), none)
    spatial, reduction = list(operation.axis), list(operation.reduce_axis)
    variables = [axis.var for axis in (*spatial, *reduction)]
    counts: dict[str, int] = dict.fromkeys(OPERATION_KINDS, 0)
    reads: dict[BufferRead, None] = {}
    bodies = list(operation.body)
    if isinstance(bodies[0], tvm.tir.Reduce):
        bodies = bodies[:1]  # the outputs of one reduction (argmax) share its sources
    for body in bodies:
        _visit(tvm, body, variables, positions, counts, reads)
    if packed:
        weights = operation.attrs.get(_PACKED_ATTRIBUTE) or ()
        rewritten = {positions[tensor.op] for tensor in weights}
        reads = {replace(read, packed=read.producer in rewritten): None for read in reads}
    return ProgramStage(
        name=name,
        kind="compute",
        tag=tag,
        dtype=dtype,
        shape=shape,
        axes=tuple(
            Axis(str(axis.var.name), _integer(tvm, axis.dom.extent), at >= len(spatial))
            for at, axis in enumerate((*spatial, *reduction))
        ),
        reads=tuple(reads),
        operations=tuple(counts[kind] for kind in OPERATION_KINDS),
    )


def _visit(
    tvm: Any,
    expression: Any,
    variables: list[Any],
    positions: dict[Any, int],
    counts: dict[str, int],
    reads: dict[BufferRead, None],
) -> None:
    """Counts operations and collects reads; arithmetic inside buffer indices does not count."""
    tir = tvm.tir
    if isinstance(expression, tir.ProducerLoad):
        reads[_read(tvm, expression, variables, positions)] = None
        return
    kind = _KIND_OF_NODE.get(type(expression).__name__)
    children: list[Any] = []
    if isinstance(expression, tir.Reduce):
        children = [*expression.source, *expression.combiner.result, expression.condition]
    elif isinstance(expression, tir.Select):
        kind = "select"
        children = [expression.condition, expression.true_value, expression.false_value]
    elif isinstance(expression, tir.Call):
        kind = _kind_of_call(str(getattr(expression.op, "name", "")))
        children = list(expression.args)
    elif isinstance(expression, tir.Cast):
        children = [expression.value]
    elif isinstance(expression, tir.Let):
        children = [expression.value, expression.body]
    elif isinstance(expression, tir.Not):
        children = [expression.a]
    elif kind is not None:
        children = [expression.a, expression.b]
    if kind is not None:
        # Conditions count as such even on indices: padding costs comparisons.
        is_float = str(expression.dtype).startswith(("float", "bfloat"))
        counts[kind if is_float or kind in ("compare", "select") else "integer"] += 1
    for child in children:
        _visit(tvm, child, variables, positions, counts, reads)


def _kind_of_call(name: str) -> str | None:
    if name == "tir.if_then_else":
        return "select"
    return None if name in _FREE_CALLS else "special"


def _read(tvm: Any, load: Any, variables: list[Any], positions: dict[Any, int]) -> BufferRead:
    producer = load.producer.op
    shape = [_integer(tvm, extent) for extent in load.producer.shape]
    strides = [0] * len(variables)
    affine = True
    step = 1
    for extent, index in reversed(list(zip(shape, load.indices, strict=True))):
        coefficients = _coefficients(tvm, index, variables)
        if coefficients is None:
            affine = False
        else:
            for at, coefficient in enumerate(coefficients):
                strides[at] += coefficient * step
        step *= extent
    known = tuple(strides) if affine else (0,) * len(variables)
    return BufferRead(positions[producer], known, affine)


def _coefficients(tvm: Any, index: Any, variables: list[Any]) -> list[int] | None:
    found = tvm.arith.detect_linear_equation(index, variables)
    if len(found) == 0:
        return None
    try:
        return [_integer(tvm, coefficient) for coefficient in found[:-1]]
    except (TypeError, ValueError):
        return None


def _integer(tvm: Any, expression: Any) -> int:
    """Evaluates a constant that Relay may have left unsimplified."""
    return int(tvm.arith.Analyzer().simplify(expression))
