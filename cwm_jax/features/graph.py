"""`ComputeGraph` -> padded arrays for the graph encoder."""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from cwm_jax.records.graph import OPERATION_KINDS, ComputeGraph, Stage, element_bytes

_SPATIAL_AXES = 6
_REDUCTION_AXES = 4
_READS = 4
_KEY_NUMBERS = 24

STAGE_COLUMNS = (
    "placeholder",
    "compute",
    "element_bytes",
    "log_output_elements",
    "axes",
    "reduction_axes",
    "reads",
    "log_points",
    *(f"log_spatial_{axis}" for axis in range(_SPATIAL_AXES)),
    *(f"log_reduction_{axis}" for axis in range(_REDUCTION_AXES)),
    *(f"operations_{kind}" for kind in OPERATION_KINDS),
    *(
        f"read_{read}_{name}"
        for read in range(_READS)
        for name in (
            "log_elements",
            "affine",
            "last_spatial_stride",
            "last_reduction_stride",
            "reused_axes",
        )
    ),
)
"""Meaning of each column of `GraphArrays.stages`; spatial and reduction extents count from
the innermost axis, strides are `log2(1 + stride) / 8`, reads are largest first."""

GLOBAL_COLUMNS = (
    "shape_only",
    "stages",
    "log_flop",
    *(f"key_number_{at}" for at in range(_KEY_NUMBERS)),
)
"""Meaning of each column of `GraphArrays.whole`; numbers of the workload key are filled in
for shape-only programs only."""

STAGE_WIDTH = len(STAGE_COLUMNS)
GLOBAL_WIDTH = len(GLOBAL_COLUMNS)
_INTEGER = re.compile(r"(?<![\w.])\d+(?![\w.])")


class GraphArrays(NamedTuple):
    """A compute graph as arrays, or a batch of them along a leading axis.

    Attributes:
        stages: `STAGE_COLUMNS` of each slot, zero for slots that hold no stage yet.
        present: 1 for slots that hold a stage of the graph.
        reads: `reads[i, j]` is 1 where stage i reads stage j.
        whole: `GLOBAL_COLUMNS`.
    """

    stages: Float32[np.ndarray, "slot column"]
    present: Float32[np.ndarray, "slot"]
    reads: Float32[np.ndarray, "slot slot"]
    whole: Float32[np.ndarray, "column"]


def encode_graph(graph: ComputeGraph, slots: int) -> GraphArrays:
    """Encodes a compute graph.

    Args:
        graph: Compute graph of the workload.
        slots: Rows of the latent state; at least the number of stages.
    """
    stages = np.zeros((slots, STAGE_WIDTH), np.float32)
    present = np.zeros(slots, np.float32)
    reads = np.zeros((slots, slots), np.float32)
    for at, stage in enumerate(graph.stages):
        stages[at] = _encode_stage(stage, graph)
        present[at] = 1
        for read in stage.reads:
            reads[at, read.producer] = 1
    return GraphArrays(stages, present, reads, _encode_whole(graph))


def pad_slots(graph: GraphArrays, slots: int) -> GraphArrays:
    """Adds slots that hold no stage; `slots` is at least what there is."""
    more = slots - len(graph.present)
    return GraphArrays(
        np.pad(graph.stages, ((0, more), (0, 0))),
        np.pad(graph.present, (0, more)),
        np.pad(graph.reads, ((0, more), (0, more))),
        graph.whole,
    )


def _log(value: float) -> float:
    return float(np.log2(1 + max(value, 0))) / 8


def _encode_stage(stage: Stage, graph: ComputeGraph) -> Float32[np.ndarray, "column"]:
    spatial = [axis.extent for axis in stage.axes if not axis.reduction][::-1]
    reduction = [axis.extent for axis in stage.axes if axis.reduction][::-1]
    points = float(np.prod([axis.extent for axis in stage.axes], dtype=np.float64))
    row = [
        stage.kind == "placeholder",
        stage.kind == "compute",
        element_bytes(stage.dtype) / 8,
        _log(np.prod(stage.shape, dtype=np.float64)),
        len(stage.axes) / 8,
        len(reduction) / 4,
        len(stage.reads) / 4,
        _log(points),
        *_padded([_log(extent) for extent in spatial], _SPATIAL_AXES),
        *_padded([_log(extent) for extent in reduction], _REDUCTION_AXES),
        *(count / 4 for count in stage.operations),
    ]
    last_spatial = max((at for at, axis in enumerate(stage.axes) if not axis.reduction), default=-1)
    last_reduction = max((at for at, axis in enumerate(stage.axes) if axis.reduction), default=-1)
    encoded_reads = []
    for read in stage.reads:
        elements = np.prod(graph.stages[read.producer].shape, dtype=np.float64)
        encoded_reads.append(
            (
                _log(elements),
                float(read.affine),
                _log(abs(read.strides[last_spatial])) if last_spatial >= 0 else 0.0,
                _log(abs(read.strides[last_reduction])) if last_reduction >= 0 else 0.0,
                sum(stride == 0 for stride in read.strides) / 8,
            )
        )
    encoded_reads.sort(reverse=True)
    for read in range(_READS):
        row.extend(encoded_reads[read] if read < len(encoded_reads) else (0.0,) * 5)
    return np.array(row, np.float32)


def _padded(values: list[float], size: int) -> list[float]:
    return (values + [0.0] * size)[:size]


def _encode_whole(graph: ComputeGraph) -> Float32[np.ndarray, "column"]:
    numbers: list[float] = []
    if graph.shape_only:
        numbers = [_log(min(int(n), 2**40)) for n in _INTEGER.findall(graph.workload_key)]
    row = [
        float(graph.shape_only),
        len(graph.stages) / 16,
        _log(graph.flop) / 4,
        *_padded(numbers, _KEY_NUMBERS),
    ]
    return np.array(row, np.float32)
