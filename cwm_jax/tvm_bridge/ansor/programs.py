"""Ansor's compute graphs -> `Program`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.errors import ProgramError
from cwm_jax.records.lines import every_line
from cwm_jax.records.program import OPERATION_KINDS, Axis, BufferRead, Program, ProgramStage
from cwm_jax.tvm_bridge.expressions import read_of, visit_expression

NO_REWRITE = 0
"""`auto_scheduler.LayoutRewriteOption` of tasks whose weights stay as they are."""

_PACKED_ATTRIBUTE = "layout_free_placeholders"


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
    try:
        for number, line in every_line(path):
            try:
                task = orjson.loads(line)
                tensors = list(tvm.ir.load_json(task["tensors"]))
                dag = tvm.auto_scheduler.ComputeDAG(tensors)
                packed = task.get("layout_rewrite", 1) != NO_REWRITE
                yield program_of_dag(tvm, dag, task["workload_key"], packed=packed)
            except (orjson.JSONDecodeError, KeyError, TypeError, tvm.TVMError) as error:
                raise ProgramError(f"{path}:{number}: not a task ({error})") from error
    except OSError as error:
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
    axes = [*spatial, *reduction]
    extents = [_integer(tvm, axis.dom.extent) for axis in axes]
    counts: dict[str, int] = dict.fromkeys(OPERATION_KINDS, 0)
    reads: dict[BufferRead, None] = {}
    bodies = list(operation.body)
    if isinstance(bodies[0], tvm.tir.Reduce):
        bodies = bodies[:1]  # the outputs of one reduction (argmax) share its sources

    def note_read(load: Any) -> None:
        reads[_read(tvm, load, axes, extents, positions)] = None

    for body in bodies:
        visit_expression(body, counts, note_read)
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
            Axis(str(axis.var.name), extent, at >= len(spatial))
            for at, (axis, extent) in enumerate(zip(axes, extents, strict=True))
        ),
        reads=tuple(reads),
        operations=tuple(counts[kind] for kind in OPERATION_KINDS),
    )


def _read(
    tvm: Any, load: Any, axes: list[Any], extents: list[int], positions: dict[Any, int]
) -> BufferRead:
    variables = [axis.var for axis in axes]

    def coefficients(index: Any) -> list[int] | None:
        found = tvm.arith.detect_linear_equation(index, variables)
        if len(found) == 0:
            return None
        try:
            return [_integer(tvm, coefficient) for coefficient in found[:-1]]
        except (TypeError, ValueError):
            return None

    shape = [_integer(tvm, extent) for extent in load.producer.shape]
    producer = positions[load.producer.op]
    return read_of(producer, shape, list(load.indices), variables, extents, coefficients)


def _integer(tvm: Any, expression: Any) -> int:
    """Evaluates a constant that Relay may have left unsimplified."""
    return int(tvm.arith.Analyzer().simplify(expression))
