"""Ansor's tasks -> `ComputeGraph`, its states -> steps."""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from cwm_jax.errors import GraphError, last_line
from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.graph import (
    OPERATION_KINDS,
    Axis,
    BufferRead,
    ComputeGraph,
    Stage,
    shape_only_graph,
)
from cwm_jax.records.lines import every_line
from cwm_jax.records.record import Record, latency_of_costs
from cwm_jax.records.store_features import STORE_WIDTH, Stores
from cwm_jax.tvm_bridge.expressions import children_of, evaluate_index, read_of, visit_expression

NO_REWRITE = 0
"""`auto_scheduler.LayoutRewriteOption` of tasks whose weights stay as they are."""

_PACKED_ATTRIBUTE = "layout_free_placeholders"


_SAMPLES = 4096
_UNBOUNDED = 2**31 - 1
"""Bounds of an index that are no more than those of its type."""


class UnreadGraphWarning(UserWarning):
    """A task is ranked without its compute graph, which cannot be read."""


def graph_of_task(tvm: Any, task: Any) -> ComputeGraph:
    """Converts the compute graph of an `auto_scheduler.SearchTask`.

    A graph that cannot be read costs the model that graph, never the search: it warns, and ranks
    by the steps of the schedules and the shapes in the workload key.
    """
    packed = int(task.layout_rewrite_option) != NO_REWRITE
    key = str(task.workload_key)
    try:
        return graph_of_dag(tvm, task.compute_dag, key, packed=packed)
    except Exception as error:  # a user's graph may hold anything that TVM knows
        warnings.warn(
            f"{key[:80]}: the compute graph cannot be read ({last_line(error)}); its schedules are "
            "ranked by their steps alone",
            UnreadGraphWarning,
            stacklevel=1,
        )
        return shape_only_graph(key)


def graph_of_dag(tvm: Any, dag: Any, workload_key: str, *, packed: bool) -> ComputeGraph:
    """Converts an `auto_scheduler.ComputeDAG`; stages are in the order of its stage ids.

    Args:
        tvm: A TVM with Ansor.
        dag: The compute graph.
        workload_key: Its key.
        packed: Whether weights that may be laid out anew are (`LayoutRewriteOption`).

    Raises:
        GraphError: A shape of the graph is not known.
    """
    operations = [stage.op for stage in dag.get_init_state().stages]
    positions = {operation: at for at, operation in enumerate(operations)}
    stages = tuple(_stage(tvm, operation, positions, packed) for operation in operations)
    return ComputeGraph(workload_key, stages, float(dag.flop_ct))


def graphs_of_tasks_file(tvm: Any, path: Path) -> Iterator[ComputeGraph]:
    """Converts a file of tasks, JSON lines with `workload_key` and `tensors` (TVM's JSON).

    Where a line has no `layout_rewrite` it is a network's task, whose weights are packed on CPUs.

    Raises:
        GraphError: The file cannot be read, or a line is no task.
    """
    try:
        for number, line in every_line(path):
            try:
                task = orjson.loads(line)
                tensors = list(tvm.ir.load_json(task["tensors"]))
                dag = tvm.auto_scheduler.ComputeDAG(tensors)
                packed = task.get("layout_rewrite", 1) != NO_REWRITE
                yield graph_of_dag(tvm, dag, task["workload_key"], packed=packed)
            except (orjson.JSONDecodeError, KeyError, TypeError, tvm.TVMError) as error:
                raise GraphError(f"{path}:{number}: not a task ({error})") from error
    except OSError as error:
        raise GraphError(f"{path}: cannot be read ({error})") from error


def _stage(tvm: Any, operation: Any, positions: dict[Any, int], packed: bool) -> Stage:
    output = operation.output(0)
    is_compute = isinstance(operation, tvm.te.ComputeOp)
    name, tag, dtype = str(operation.name), str(operation.tag), str(output.dtype)
    shape = _shape(tvm, output)
    if not is_compute:
        none = (0,) * len(OPERATION_KINDS)
        return Stage(name, "placeholder", tag, dtype, shape, (), (), none)
    spatial, reduction = list(operation.axis), list(operation.reduce_axis)
    axes = [*spatial, *reduction]
    extents = _extents(tvm, axes, list(operation.body))
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
    return Stage(
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

    shape = _shape(tvm, load.producer)
    producer = positions[load.producer.op]
    return read_of(producer, shape, list(load.indices), variables, extents, coefficients)


def _shape(tvm: Any, tensor: Any) -> tuple[int, ...]:
    try:
        return tuple(_integer(tvm, extent) for extent in tensor.shape)
    except (TypeError, ValueError) as error:
        raise GraphError(
            f"tensor {str(tensor.op.name)!r} has the shape {list(tensor.shape)}, expected constants"
        ) from error


def _integer(tvm: Any, expression: Any) -> int:
    """Evaluates a constant that Relay may have left unsimplified."""
    return int(tvm.arith.Analyzer().simplify(expression))


def _extents(tvm: Any, axes: Sequence[Any], bodies: Sequence[Any]) -> list[int]:
    """Returns the extents of a stage's axes; one that is not constant is estimated."""
    extents: list[int] = []
    for at, axis in enumerate(axes):
        try:
            extent = _integer(tvm, axis.dom.extent)
        except (TypeError, ValueError):
            extent = _estimated_extent(tvm, axis, axes[:at], extents, bodies)
        extents.append(extent)
    return extents


def _estimated_extent(
    tvm: Any, axis: Any, outer: Sequence[Any], extents: Sequence[int], bodies: Sequence[Any]
) -> int:
    """Estimates how often a loop runs whose extent is not constant.

    - An extent that depends on outer loops (the row of a triangle): its mean over them.
    - One that depends on data: half of its largest value where that is bounded; also what the
      buffers allow that the loop reads. It covers half of a dimension that it indexes by itself;
      where data say at which position of the dimension it begins, as in sparse formats, all its
      runs share the dimension.

    Raises:
        GraphError: Nothing bounds it.
    """
    extent = axis.dom.extent
    variables = [loop.var for loop in outer]
    rng = np.random.default_rng(0)
    points = [rng.integers(0, max(count, 1), _SAMPLES) for count in extents]
    try:
        if variables:
            values = evaluate_index(extent, variables, points)
            return max(1, round(float(np.mean(np.maximum(values, 0)))))
    except ValueError:
        pass  # it depends on data
    analyzer = tvm.arith.Analyzer()
    for loop, count in zip(outer, extents, strict=True):
        analyzer.bind(loop.var, tvm.ir.Range.from_min_extent(loop.dom.min, count))
    largest = int(analyzer.const_int_bound(extent).max_value)
    guesses = [largest // 2] if largest < _UNBOUNDED else []
    data = [index for load in _loads_of([extent]) for index in load.indices]
    inside = [variable for part in (extent, *data) for variable in _variables_of(part)]
    runs = math.prod(
        count
        for loop, count in zip(outer, extents, strict=True)
        if any(loop.var.same_as(variable) for variable in inside)
    )
    for load in _loads_of(bodies):
        for index, size in zip(load.indices, _shape(tvm, load.producer), strict=True):
            if not any(axis.var.same_as(variable) for variable in _variables_of(index)):
                continue
            begins_anywhere = any(True for _ in _loads_of([index]))
            guesses.append(size // runs if begins_anywhere else size // 2)
    if not guesses:
        raise GraphError(f"nothing bounds the extent of the axis {axis.var}, {extent}")
    return max(1, min(guesses))


def _loads_of(expressions: Sequence[Any]) -> Iterator[Any]:
    """All reads in expressions, those in their indices, too."""
    for expression in expressions:
        if hasattr(expression, "producer"):
            yield expression
            yield from _loads_of(list(expression.indices))
        else:
            yield from _loads_of(children_of(expression))


def _variables_of(expression: Any) -> list[Any]:
    """The variables in an expression, but not those by which data are read."""
    if type(expression).__name__ in ("Var", "SizeVar"):
        return [expression]
    return [found for child in children_of(expression) for found in _variables_of(child)]


_FAILED_SECONDS = 1e10


_UNKNOWN_ERROR = 8
"""`MeasureErrorNo.UNKNOWN_ERROR`."""


def latency_of(result: Any) -> float:
    """Returns the mean latency in seconds; infinity for a failed measurement."""
    if int(result.error_no) != 0:
        return math.inf
    return latency_of_costs([float(cost.value) for cost in result.costs])


def as_measured(ansor: Any, result: Any) -> Any:
    """Returns a result as it is, or as a failure if its latencies are none (`latency_of`).

    Args:
        ansor: TVM's `auto_scheduler`.
        result: `MeasureResult`.
    """
    if int(result.error_no) != 0 or latency_of(result) < math.inf:
        return result
    found = ", ".join(str(float(cost.value)) for cost in result.costs) or "nothing"
    return ansor.measure.MeasureResult(
        [_FAILED_SECONDS],
        _UNKNOWN_ERROR,
        f"measured {found}, expected seconds",
        float(result.all_cost),
        float(result.timestamp),
    )


def first_error(results: Iterable[Any]) -> str:
    """Returns what TVM said of the first failure, or ""."""
    for result in results:
        if int(result.error_no) != 0:
            lines = str(result.error_msg).strip().splitlines() or ["timed out"]
            return f"error {int(result.error_no)}: {lines[-1]}"
    return ""


_BATCH = 256


_NONE = np.zeros((0, STORE_WIDTH), np.float32)


def extract_stores(
    tvm: Any,
    records: Sequence[Record],
    tasks: Mapping[str, Any],
    report: Callable[[int], None] = lambda _: None,
) -> list[Stores]:
    """Lowers every recorded schedule and returns its per-store features.

    Args:
        tvm: A TVM with Ansor.
        records: Records of one log, in order.
        tasks: `auto_scheduler.SearchTask` of each workload key.
        report: Called with the number of records done.

    Returns:
        One array a record; no rows where the task is unknown or the program does not lower.
    """
    ansor = tvm.auto_scheduler
    load = ansor.measure_record.load_record_from_string
    rows_of: dict[str, list[int]] = defaultdict(list)
    for at, record in enumerate(records):
        rows_of[record.workload_key].append(at)
    found: list[Stores] = [_NONE] * len(records)
    done = 0
    for key, members in rows_of.items():
        for start in range(0, len(members), _BATCH):
            part = members[start : start + _BATCH]
            if key in tasks:
                states = [load(format_line(records[at]))[0].state for at in part]
                for at, rows in zip(part, features_of_states(tvm, states, tasks[key]), strict=True):
                    found[at] = rows
            done += len(part)
            report(done)
    return found


def features_of_states(tvm: Any, states: Sequence[Any], task: Any) -> list[Stores]:
    """Lowers states of a task and returns their per-store features.

    Args:
        tvm: A TVM with Ansor.
        states: States of the task.
        task: `auto_scheduler.SearchTask`.

    Returns:
        One array a state; no rows where the program does not lower.
    """
    found = tvm.auto_scheduler.feature.get_per_store_features_from_states(states, task)
    arrays = [np.asarray(rows, np.float32) for rows in found]
    return [array if array.ndim == 2 else _NONE for array in arrays]
