"""Expands the annotations on a module's root block, as MetaSchedule's postprocessor does.

It fuses outer loops into a parallel one and inner ones into a vectorised one, block by block
(`rewrite_parallel_vectorize_unroll.cc` of TVM). Here the same is said in steps, as an Ansor
schedule says it itself.
"""

import math
from collections.abc import Callable, Mapping

from cwm_jax.records.metaschedule.block import Block, BlockLoop
from cwm_jax.records.metaschedule.state import Blocks
from cwm_jax.records.steps import ANNOTATIONS

Emit = Callable[..., None]

_PARALLEL = ANNOTATIONS.index("parallel")
_VECTORIZE = ANNOTATIONS.index("vectorize")


def apply_root_annotations(blocks: Blocks, annotations: Mapping[str, int], emit: Emit) -> None:
    """Appends the steps that the postprocessor derives from the annotations.

    Args:
        blocks: After the trace.
        annotations: Values of `parallel`, `vectorize`, `unroll_explicit`, `unroll_implicit`.
        emit: Takes kind, block and further fields of a step.
    """
    most_parallel = annotations.get("parallel", 0)
    most_lanes = annotations.get("vectorize", 0)
    unroll = annotations.get("unroll_explicit", annotations.get("unroll_implicit", 0))
    computed = blocks.computed()
    hosts = {block.host for block in computed}
    for block in computed:
        loops = [loop for loop in block.loops if not loop.enclosed]
        if not loops:
            continue
        shared = {at for at, loop in enumerate(loops) if loop in hosts}
        contiguous = _contiguous(block)
        whole = contiguous == len(loops) and math.prod(loop.extent for loop in loops) > 1
        if block.host is None and not shared and whole and most_lanes > 1:
            _fuse_whole(blocks, block, most_lanes, emit)
        else:
            parallel = _outer(loops, shared, most_parallel) if block.host is None else 0
            lanes = _inner(loops, shared, most_lanes, contiguous)
            parallel = min(parallel, len(loops) - lanes)
            if parallel:
                fused = _fuse(blocks, block, loops[:parallel], emit)
                emit("AN", block, fused.position, _PARALLEL)
            if lanes:
                fused = _fuse(blocks, block, block.loops[len(block.loops) - lanes :], emit)
                emit("AN", block, fused.position, _VECTORIZE)
        if unroll > 0 and block.host is None:
            emit("PR", block, 0, f"auto_unroll_max_step${unroll}")


def _fuse(blocks: Blocks, block: Block, loops: list[BlockLoop], emit: Emit) -> BlockLoop:
    if len(loops) == 1:
        return loops[0]
    positions = tuple(loop.position for loop in loops)
    fused = blocks.fuse(loops)
    emit("FU", block, positions)
    return fused


def _fuse_whole(blocks: Blocks, block: Block, most_lanes: int, emit: Emit) -> None:
    """A nest that walks through contiguous memory becomes one loop of vectors."""
    fused = _fuse(blocks, block, list(block.loops), emit)
    extent = fused.extent
    outer, inner = blocks.split(fused, [None, most_lanes])
    emit("SP", block, 0, extent, (most_lanes,), 1)
    emit("AN", block, outer.position, _PARALLEL)
    emit("AN", block, inner.position, _VECTORIZE)


def _outer(loops: list[BlockLoop], shared: set[int], most: int) -> int:
    """How many outer loops one parallel loop takes in."""
    count, product = 0, 1
    for at, loop in enumerate(loops):
        if most <= 0 or loop.reduction or loop.annotated or loop.extent <= 0:
            break
        count += 1
        product *= loop.extent
        if product > most or at in shared:
            break
    return count if product > 1 else 0


def _inner(loops: list[BlockLoop], shared: set[int], most: int, contiguous: int) -> int:
    """How many inner loops one vectorised loop takes in."""
    count, product = 0, 1
    for at, loop in reversed(list(enumerate(loops))[len(loops) - contiguous :]):
        if loop.reduction or loop.annotated or loop.extent <= 0 or at in shared:
            break
        product *= loop.extent
        if product > most:
            break
        count += 1
    return count if product > 1 else 0


def _contiguous(block: Block) -> int:
    """How many inner loops walk each buffer without a gap; 0 if the innermost one reduces."""
    if not block.loops or block.loops[-1].reduction or block.loops[-1].enclosed:
        return 0
    most = len(block.loops)
    for strides in (block.write, *block.reads.values()):
        if strides is not None:
            most = min(most, _walked(block.loops, strides))
    spatial = next(
        (at for at, loop in enumerate(reversed(block.loops)) if loop.reduction), len(block.loops)
    )
    return min(most, spatial)


def _walked(loops: list[BlockLoop], strides: tuple[int, ...]) -> int:
    count, last = 0, None
    for loop in reversed(loops):
        known = loop.axis is not None and loop.axis < len(strides)
        stride = strides[loop.axis] * loop.stride if known else 0  # type: ignore[index]
        if stride != 0:
            if last is None:
                if stride != 1 and count:
                    break
            elif stride != last:
                break
            last = stride * (loop.extent or 1)
        count += 1
    return count
