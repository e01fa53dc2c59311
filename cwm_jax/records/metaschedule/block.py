"""A block of a MetaSchedule schedule: its loops, and the strides in which it reads and writes."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from cwm_jax.errors import RecordError
from cwm_jax.records.graph import ComputeGraph, Stage

MAX_NUMBER = 2**31 - 1
"""Extents that steps say are smaller."""


Strides = tuple[int, ...]


@dataclasses.dataclass(eq=False, slots=True)
class BlockLoop:
    """A loop.

    Attributes:
        block: Whose nest it belongs to.
        extent: Trip count, 0 where unknown.
        reduction: Whether it reduces.
        axis: The axis of the block that it steps through; None for several or an unknown one.
        stride: Steps along that axis that one iteration makes.
        annotated: Whether it is parallel, vectorised, unrolled or bound.
        enclosed: Whether it lies inside what has become a block of its own, for a tensor
            instruction to take its place.
    """

    block: "Block"
    extent: int
    reduction: bool
    axis: int | None = None
    stride: int = 1
    annotated: bool = False
    enclosed: bool = False

    @property
    def position(self) -> int:
        """Position of the loop in its block's nest.

        Raises:
            RecordError: A later instruction has replaced it.
        """
        try:
            return self.block.loops.index(self)
        except ValueError:
            message = f"a loop of block {self.block.name!r} that is there no more"
            raise RecordError(message) from None


@dataclasses.dataclass(eq=False, slots=True)
class Block:
    """A block: one stage.

    Attributes:
        name: TVM's name of it.
        shape: Extents of its spatial axes.
        write: Strides along its axes, in elements, of what it writes; None where unknown.
        reads: The same of what it reads, by the block (or input) that produces the buffer, in
            the order of its buffers; None where an index is not affine.
        is_input: Whether it stands for an input, which has no loops.
        position: Position of its stage.
        loops: Its own loops, outermost first; those inside `host` if it moved under one.
        host: The loop of another block that it is computed at.
        inlined: Whether it is gone into another block.
        apart: Whether it has no place among the graph's stages: what initialises a reduction, and
            blocks of which a trace alone tells. Steps number it behind all others.
    """

    name: str
    shape: tuple[int, ...]
    write: Strides | None
    reads: dict["Block", Strides | None]
    is_input: bool
    position: int
    loops: list[BlockLoop] = dataclasses.field(default_factory=list)
    host: BlockLoop | None = None
    inlined: bool = False
    apart: bool = False

    @property
    def producers(self) -> list["Block"]:
        """Blocks (or inputs) that the block reads, one for each buffer."""
        return list(self.reads)

    def insert_unit_loop(self) -> BlockLoop:
        """Adds a loop of extent 1 outermost."""
        loop = BlockLoop(self, 1, reduction=False)
        self.loops.insert(0, loop)
        return loop


class StageLayout(NamedTuple):
    """What a block is before any instruction; `reads` by position of the producer."""

    name: str
    shape: tuple[int, ...]
    write: Strides
    reads: tuple[tuple[int, Strides | None], ...]
    is_input: bool
    loops: tuple[tuple[int, bool], ...]


BlockLayout = tuple[StageLayout, ...]
"""The blocks of a module before any instruction."""


def layout_of(graph: ComputeGraph) -> BlockLayout:
    """Returns the blocks of a graph, from which any number of traces start."""
    return tuple(_layout_of_stage(stage) for stage in graph.stages)


def _layout_of_stage(stage: Stage) -> StageLayout:
    axes = len(stage.axes)
    spatial = sum(not axis.reduction for axis in stage.axes)
    reads: dict[int, Strides | None] = {}
    for read in stage.reads:
        reads.setdefault(read.producer, read.strides if read.affine else None)
    return StageLayout(
        stage.name,
        tuple(bounded(axis.extent) for axis in stage.axes if not axis.reduction),
        row_major(stage.shape[:spatial]) + (0,) * (axes - spatial),
        tuple(reads.items()),
        stage.kind == "placeholder",
        tuple((bounded(axis.extent), axis.reduction) for axis in stage.axes),
    )


def bounded(extent: int) -> int:
    """Returns an extent, or the largest that steps can say: some tensors have more elements."""
    return min(extent, MAX_NUMBER - 1)


def checked(extent: int) -> int:
    """Returns an extent.

    Raises:
        RecordError: Steps cannot say it.
    """
    if type(extent) is not int or not 0 <= extent < MAX_NUMBER:
        raise RecordError(f"extent {extent!r}, expected an integer in [0, {MAX_NUMBER})")
    return extent


def covered_inside(target: BlockLoop) -> dict[int, int]:
    """How many steps along each axis of the target's block the loops inside the target make."""
    loops = target.block.loops
    inside = {loop.axis: 1 for loop in loops if loop.axis is not None}
    for loop in loops[target.position + 1 :]:
        if loop.axis is not None:
            inside[loop.axis] *= loop.extent or 1  # 0 where unknown
    return inside


def along(loops: Sequence[BlockLoop], strides: Strides | None) -> Strides | None:
    """Strides along loops, from those along the axes that the loops step through."""
    if strides is None or any(loop.axis is None for loop in loops):
        return None
    return tuple(strides[loop.axis] * loop.stride for loop in loops if loop.axis is not None)


def is_under(block: Block, target: Block) -> bool:
    """Whether a block lies under a loop of another one."""
    while block.host is not None:
        block = block.host.block
        if block is target:
            return True
    return False


@lru_cache(maxsize=4096)  # a workload's traces ask the same
def offsets(stride: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Splits a stride into a buffer of a shape into steps along its dimensions."""
    steps: list[int] = []
    for unit in row_major(shape):
        steps.append(stride // unit)
        stride %= unit
    return tuple(steps)


@lru_cache(maxsize=1024)
def composed(
    outer: Strides | None, shape: tuple[int, ...], inner: Strides | None
) -> Strides | None:
    """Strides of a read through a block of a shape that is computed where it is read."""
    if outer is None or inner is None:
        return None
    return tuple(
        sum(step * stride for step, stride in zip(offsets(along, shape), inner, strict=False))
        for along in outer
    )


@lru_cache(maxsize=1024)
def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the strides of a buffer of a shape."""
    strides: list[int] = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)  # 0 where unknown
    return tuple(reversed(strides))


def replace_read(reader: Block, old: Block, new: dict[Block, Strides | None]) -> None:
    """Lets a block read `new` where it read `old`; what it reads already stays where it is."""
    reads: dict[Block, Strides | None] = {}
    for known, strides in reader.reads.items():
        if known is not old:
            reads[known] = strides
            continue
        fresh = {block: through for block, through in new.items() if block not in reader.reads}
        reads |= fresh
    reader.reads = reads
