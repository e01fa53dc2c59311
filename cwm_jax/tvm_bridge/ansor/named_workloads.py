"""Compute graphs for logs whose workload keys name a function and its arguments.

Public logs (Roller's, mmperf's, bennu's) were tuned with functions that are not in the log,
some of them fused with an addition or an activation that the key does not show. The variant is
told from the records: their steps must address the stages, and split the extents, that it has.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from cwm_jax.errors import RecordError
from cwm_jax.features.batch import split_step
from cwm_jax.features.step_features import Replay, StepFeatures
from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.record import Record
from cwm_jax.records.steps import Step
from cwm_jax.tvm_bridge.ansor.graphs import graph_of_dag

_EPILOGUES = ("", "relu", "bias", "bias relu", "add", "bias add", "bias add relu", "add relu")
_INSERTS_STAGE = ("CHR", "CHW", "RF")
_CHECKED_RECORDS = 16


class Rebuilt(NamedTuple):
    """A compute graph that fits a workload's records.

    Attributes:
        graph: As arrays.
        tensors: As TE tensors.
        flop: Floating-point operations.
        fitting: Positions of the records that are schedules of this graph: some logs hold
            several variants of a layer under one key.
    """

    graph: ComputeGraph
    tensors: list[Any]
    flop: float
    fitting: list[int]


def rebuild_workload(tvm: Any, workload_key: str, records: Sequence[Record]) -> Rebuilt | None:
    """Returns the compute graph of a named workload that fits most of its records.

    Args:
        tvm: A TVM with Ansor.
        workload_key: Ansor's.
        records: Records of the workload; the variant is told from some of them.

    Returns:
        None if no known variant fits any.
    """
    if not records:
        return None
    chosen = records[:: max(1, len(records) // _CHECKED_RECORDS)]
    best: tuple[int, list[Any]] = (0, [])
    for tensors in _variants(tvm, workload_key):
        found = len(_fitting(tvm, tensors, chosen))
        if found > best[0]:
            best = (found, tensors)
        if found == len(chosen):
            break
    count, tensors = best
    if count == 0:
        return None
    dag = tvm.auto_scheduler.ComputeDAG(tensors)
    graph = graph_of_dag(tvm, dag, workload_key, packed=False)
    fitting = _fitting(tvm, tensors, records)
    return Rebuilt(graph, tensors, float(dag.flop_ct), fitting)


def _fitting(tvm: Any, tensors: list[Any], records: Sequence[Record]) -> list[int]:
    """Positions of the records whose steps are those of a schedule of the graph, by TVM, too."""
    ansor = tvm.auto_scheduler
    dag = ansor.ComputeDAG(tensors)
    load = ansor.measure_record.load_record_from_string
    key = records[0].workload_key
    graph = graph_of_dag(tvm, dag, key, packed=False)
    ansor.workload_registry.register_workload_tensors(key, tensors, override=True)
    found: list[int] = []
    for at, record in enumerate(records):
        if not replays(graph, record.steps):
            continue
        try:
            dag.apply_steps_from_state(load(format_line(record))[0].state)
        except tvm.error.TVMError:
            continue
        found.append(at)
    return found


def replays(graph: ComputeGraph, schedule: tuple[Step, ...]) -> bool:
    """Returns whether a schedule may belong to a compute graph.

    It must address every computed stage and none that is not there, and state the extents
    that the loops it splits have. Loops of a stage that is computed at another's are left out,
    since bound inference changes them.
    """
    pieces = [split_step(step) for step in schedule]
    numbers = np.array([[n for _, part in pieces for n in part]], np.float64)
    replay = Replay(graph, numbers, StepFeatures.empty(1, len(schedule)))
    inferred: set[int] = set()
    touched: set[int] = set()
    inserted = 0
    try:
        for at, (step, (shape, values)) in enumerate(zip(schedule, pieces, strict=True)):
            stage: int = shape.fields[0]  # type: ignore[assignment]
            if stage >= len(replay.state.nests):
                return False
            slot = replay.state.nest(stage).slot
            touched.add(slot)
            if step.kind == "SP" and slot not in inferred and slot < len(graph.stages):
                position: int = shape.fields[1]  # type: ignore[assignment]
                known = replay.state.loop(stage, position).extent[0]
                if values[0] and known and values[0] != known:
                    return False
            if step.kind == "CA":
                inferred.add(slot)
            inserted += step.kind in _INSERTS_STAGE
            if step.kind == "CHW":
                inferred.add(slot)
            replay.apply(at, shape)
    except RecordError:
        return False
    computed = {at for at, stage in enumerate(graph.stages) if stage.kind == "compute"}
    return replay.state.slots == len(graph.stages) + inserted and computed <= touched


def _variants(tvm: Any, workload_key: str) -> Iterator[list[Any]]:
    """Candidate compute graphs, the simplest first."""
    name, *arguments = orjson.loads(workload_key)
    build = _FUNCTIONS.get(name)
    if build is None:
        return
    for epilogue in _EPILOGUES:
        for tensors in build(tvm, arguments):
            yield _with_epilogue(tvm, tensors, epilogue.split())


def _with_epilogue(tvm: Any, tensors: list[Any], epilogue: Sequence[str]) -> list[Any]:
    topi, te = tvm.topi, tvm.te
    *inputs, out = tensors
    for part in epilogue:
        if part == "relu":
            out = topi.nn.relu(out)
            continue
        shape = [int(extent) for extent in out.shape]
        if part == "bias":
            shape = [1, shape[1], *[1] * (len(shape) - 2)] if len(shape) > 2 else [shape[-1]]
        other = te.placeholder(shape, str(out.dtype), name=part)
        inputs.append(other)
        out = topi.add(out, other)
    return [*inputs, out]


def _conv2d(tvm: Any, arguments: Sequence[Any]) -> Iterator[list[Any]]:
    n, channels, h, w, outputs, high, wide, stride, padding = arguments
    data = tvm.te.placeholder((n, channels, h, w), name="data")
    kernel = tvm.te.placeholder((outputs, channels, high, wide), name="kernel")
    out = tvm.topi.nn.conv2d_nchw(data, kernel, stride, padding, 1, "float32")
    yield [data, kernel, out]


def _depthwise_conv2d(tvm: Any, arguments: Sequence[Any]) -> Iterator[list[Any]]:
    n, channels, h, w, high, wide, stride, padding = arguments
    data = tvm.te.placeholder((n, channels, h, w), name="data")
    kernel = tvm.te.placeholder((channels, 1, high, wide), name="kernel")
    strides = stride if isinstance(stride, list) else (stride, stride)
    out = tvm.topi.nn.depthwise_conv2d_nchw(data, kernel, strides, padding, (1, 1), "float32")
    yield [data, kernel, out]


def _matmul_layer(tvm: Any, arguments: Sequence[Any]) -> Iterator[list[Any]]:
    batch, inputs, outputs = arguments
    data = tvm.te.placeholder((batch, inputs), name="data")
    for transposed in (False, True):
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        weight = tvm.te.placeholder(shape, name="weight")
        yield [data, weight, _product(tvm, data, weight, "float32", transposed=transposed)]


def _product(tvm: Any, left: Any, right: Any, dtype: str, *, transposed: bool) -> Any:
    te = tvm.te
    m, k = left.shape
    n = right.shape[0] if transposed else right.shape[1]
    inner = te.reduce_axis((0, k), name="k")

    def point(i: Any, j: Any) -> Any:
        other = right[j, inner] if transposed else right[inner, j]
        return te.sum(left[i, inner].astype(dtype) * other.astype(dtype), axis=inner)

    return te.compute((m, n), point, name="C")


def _matmul(tvm: Any, arguments: Sequence[Any]) -> Iterator[list[Any]]:
    m, n, k, dtype = arguments
    accumulators = dict.fromkeys((dtype, "float32"))
    for transposed, accumulator in itertools.product((False, True), accumulators):
        left = tvm.te.placeholder((m, k), dtype, name="A")
        shape = (n, k) if transposed else (k, n)
        right = tvm.te.placeholder(shape, dtype, name="B")
        yield [left, right, _product(tvm, left, right, accumulator, transposed=transposed)]


def _batch_matmul(tvm: Any, arguments: Sequence[Any]) -> Iterator[list[Any]]:
    batch, heads, m, k, n = arguments
    te = tvm.te
    left = te.placeholder((batch, heads, m, k), name="A")
    right = te.placeholder((batch, heads, k, n), name="B")
    inner = te.reduce_axis((0, k), name="k")
    out = te.compute(
        (batch, heads, m, n),
        lambda b, h, i, j: te.sum(left[b, h, i, inner] * right[b, h, inner, j], axis=inner),
        name="C",
    )
    yield [left, right, out]


def _pool(tvm: Any, arguments: Sequence[Any]) -> Iterator[list[Any]]:
    kind, n, channels, h, w, high, wide, stride, padding = arguments
    data = tvm.te.placeholder((n, channels, h, w), name="data")
    pads = (0, 0, 0, 0)
    if padding == "SAME":
        down, across = high - 1, wide - 1
        pads = (down // 2, across // 2, down - down // 2, across - across // 2)
    strides = stride if isinstance(stride, list) else (stride, stride)
    out = tvm.topi.nn.pool2d(data, (high, wide), strides, (1, 1), pads, kind)
    yield [data, out]


def _reduction(tvm: Any, arguments: Sequence[Any]) -> Iterator[list[Any]]:
    shape, axis, keep = arguments
    data = tvm.te.placeholder(shape, name="data")
    yield [data, tvm.topi.sum(data, axis=axis, keepdims=bool(keep))]


def _relu(tvm: Any, arguments: Sequence[Any]) -> Iterator[list[Any]]:
    data = tvm.te.placeholder(arguments, name="data")
    yield [data, tvm.topi.nn.relu(data)]


_FUNCTIONS: dict[str, Callable[[Any, Sequence[Any]], Iterator[list[Any]]]] = {
    "conv2d_layer": _conv2d,
    "depthwise_conv2d_layer": _depthwise_conv2d,
    "matmul_layer": _matmul_layer,
    "matmul": _matmul,
    "batch_matmul_layer": _batch_matmul,
    "pool_layer": _pool,
    "reduction_layer": _reduction,
    "relu_layer": _relu,
}
