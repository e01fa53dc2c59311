"""Blocks and loops of a MetaSchedule schedule, as integers: enough to say what a trace addresses.

Stages keep Ansor's order and numbering: a copy of a buffer is inserted behind the stage that
writes it, so that a step means the same whichever engine it comes from.
"""

import math
from collections.abc import Sequence
from typing import Any

from cwm_jax.errors import RecordError
from cwm_jax.records.metaschedule.block import (
    MAX_NUMBER,
    Block,
    BlockLayout,
    BlockLoop,
    along,
    bounded,
    checked,
    composed,
    covered_inside,
    is_under,
    offsets,
    replace_read,
    row_major,
)
from cwm_jax.records.steps import Step

MAX_BLOCKS = 120
MAX_LOOPS = 256


class Blocks:
    """The blocks of a module while a trace is followed."""

    def __init__(self, layout: BlockLayout) -> None:
        self._blocks: list[Block] = []
        for position, stage in enumerate(layout):
            reads = {self._blocks[producer]: strides for producer, strides in stage.reads}
            block = Block(stage.name, stage.shape, stage.write, reads, stage.is_input, position)
            block.loops = [
                BlockLoop(block, extent, reduction, at)
                for at, (extent, reduction) in enumerate(stage.loops)
            ]
            self._blocks.append(block)

    def named(self, name: str) -> Block:
        """Finds a block by name.

        Raises:
            RecordError: There is none.
        """
        for block in self._blocks:
            if block.name == name and not block.is_input:
                return block
        known = ", ".join(repr(block.name) for block in self.computed())
        raise RecordError(f"block {name!r} is not in the program, which has {known}")

    def has(self, name: str) -> bool:
        """Tells whether there is a block of a name."""
        return any(block.name == name and not block.is_input for block in self._blocks)

    def adopt(self, name: str) -> Block:
        """Adds a block that the graph does not have, of unknown loops.

        Raises:
            RecordError: There are too many.
        """
        if len(self._blocks) >= MAX_BLOCKS:
            raise RecordError(f"a schedule has at most {MAX_BLOCKS} blocks")
        block = Block(name, (), None, {}, is_input=False, position=len(self._blocks), apart=True)
        self._blocks.append(block)
        return block

    def last(self) -> Block:
        """Returns the block that steps number last."""
        return self._blocks[-1]

    def begin(self, steps: Sequence[Step]) -> None:
        """Applies the initial steps of a graph.

        Raises:
            RecordError: They are none of the graph.
        """
        for kind, (stage, *fields) in steps:
            match kind, fields:
                case "SP", [int(at), _, tuple(factors), _]:
                    self.split(self._initial_loop(stage, at), [None, *factors])
                case "RE", [tuple(order)]:
                    block = self._initial_block(stage)
                    self.reorder(block, [self._initial_loop(stage, at) for at in order])
                case "FU", [tuple(loops)] if loops:
                    self.fuse([self._initial_loop(stage, at) for at in loops])
                case "AN", [int(at), _]:
                    self._initial_loop(stage, at).annotated = True
                case _:
                    raise RecordError(f"{kind} is no initial step")

    def _initial_block(self, stage: Any) -> Block:
        if type(stage) is not int or not 0 <= stage < len(self._blocks):
            raise RecordError(f"initial steps address stage {stage!r} of {len(self._blocks)}")
        return self._blocks[stage]

    def _initial_loop(self, stage: Any, at: Any) -> BlockLoop:
        loops = self._initial_block(stage).loops
        if type(at) is not int or not 0 <= at < len(loops):
            raise RecordError(f"initial steps address loop {at!r} of {len(loops)}")
        return loops[at]

    def computed(self) -> list[Block]:
        """Returns the module's blocks that have loops."""
        return [
            block for block in self._blocks if not (block.is_input or block.inlined or block.apart)
        ]

    def producers(self, block: Block) -> list[Block]:
        """Returns the blocks, not inputs, that a block reads."""
        return [producer for producer in block.producers if not producer.is_input]

    def consumers(self, block: Block) -> list[Block]:
        """Returns the blocks that read a block."""
        return [other for other in self._blocks if block in other.reads and not other.inlined]

    def outputs(self) -> list[Block]:
        """Returns the blocks that nothing reads."""
        return [block for block in self.computed() if not self.consumers(block)]

    def nest(self, block: Block) -> list[BlockLoop]:
        """Returns all loops around a block, outermost first."""
        if block.host is None:
            return list(block.loops)
        outer = self.nest(block.host.block)
        inside = next((at for at, loop in enumerate(outer) if loop is block.host), -1)
        return [*outer[: inside + 1], *block.loops]

    def loops(self, block: Block, count: int) -> list[BlockLoop]:
        """Returns the loops around a block, made to be as many as TVM found.

        TVM drops or keeps loops of one iteration where this bookkeeping cannot know.

        Raises:
            RecordError: These are more than any block has.
        """
        found = [loop for loop in self.nest(block) if not loop.enclosed]
        while len(found) > count:
            unit = next((loop for loop in found if loop.extent == 1), found[0])
            found = [loop for loop in found if loop is not unit]
        if count > MAX_LOOPS:
            raise RecordError(f"{count} loops around a block, expected at most {MAX_LOOPS}")
        while len(found) < count:
            loop = BlockLoop(block, 0, reduction=False)
            block.loops.append(loop)
            found.append(loop)
        return found

    def common_loops(self, blocks: Sequence[Block]) -> list[BlockLoop]:
        """Returns the loops that are around all of the blocks."""
        if not blocks:
            return []
        nests = [self.nest(block) for block in blocks]
        if len(nests) == 1:
            return nests[0]
        shared: list[BlockLoop] = []
        for loops in zip(*nests, strict=False):
            if any(loop is not loops[0] for loop in loops):
                break
            shared.append(loops[0])
        return shared

    def split(self, loop: BlockLoop, factors: Sequence[int | None]) -> list[BlockLoop]:
        """Splits a loop; at most one factor is None and takes the rest.

        Raises:
            RecordError: The block would have too many loops, or too large ones.
        """
        if len(loop.block.loops) + len(factors) > MAX_LOOPS:
            raise RecordError(f"{len(factors)} factors, expected at most {MAX_LOOPS} loops")
        known = [factor for factor in factors if factor is not None]
        if len(known) < len(factors):
            rest = -(-loop.extent // max(math.prod(known), 1))
            known = [rest if factor is None else factor for factor in factors]
        checked(loop.extent)
        block, reduction, axis, stride = loop.block, loop.reduction, loop.axis, loop.stride
        parts: list[BlockLoop] = []
        for extent in reversed(known):
            parts.append(BlockLoop(block, checked(extent), reduction, axis, stride))
            stride = min(stride * (extent or 1), MAX_NUMBER)
        parts.reverse()
        at = loop.position
        block.loops[at : at + 1] = parts
        return parts

    def fuse(self, loops: Sequence[BlockLoop]) -> BlockLoop:
        """Fuses adjacent loops of one block.

        Raises:
            RecordError: A loop is given twice.
        """
        if len(set(loops)) < len(loops):
            raise RecordError("fuses a loop with itself")
        block, at = loops[0].block, loops[0].position
        axes = {loop.axis for loop in loops if loop.extent != 1}
        alone = next((loop for loop in loops if loop.extent != 1), loops[0])
        fused = BlockLoop(
            block,
            bounded(math.prod(loop.extent for loop in loops)),
            any(loop.reduction for loop in loops),
            alone.axis if len(axes) <= 1 else None,
            alone.stride,
        )
        gone = set(loops)
        kept = [loop for loop in block.loops if loop not in gone]
        block.loops[:] = [*kept[:at], fused, *kept[at:]]
        return fused

    def reorder(self, block: Block, loops: Sequence[BlockLoop]) -> tuple[int, ...]:
        """Gives the places that the loops hold to them in the order given.

        Returns:
            Former positions in the new order, of all loops of the block.
        """
        positions = [loop.position for loop in loops]
        former = list(range(len(block.loops)))
        for place, position in zip(sorted(positions), positions, strict=True):
            former[place] = position
        block.loops[:] = [block.loops[position] for position in former]
        return tuple(former)

    def enclose(self, loop: BlockLoop) -> None:
        """Makes a loop and those inside it a block of their own, which no loop is found in."""
        for inner in loop.block.loops[loop.position :]:
            inner.enclosed = True

    def decompose(self, block: Block, loop: BlockLoop) -> Block:
        """Lets a block of its own initialise a reduction before a loop of it; returns that."""
        init = self.adopt(f"{block.name}_init")
        init.shape, init.write = block.shape, block.write
        block.name = f"{block.name}_update"
        at = loop.position if loop.block is block else 0
        init.host = block.loops[at - 1] if at else block.host
        init.loops = [
            BlockLoop(init, inner.extent, reduction=False, axis=inner.axis, stride=inner.stride)
            for inner in block.loops[at:]
            if not inner.reduction
        ]
        return init

    def pad(self, block: Block) -> None:
        """Lets blocks of their own pad what a block reads, and cut what it writes."""
        readers = self.consumers(block)
        for source in block.producers:
            padded = self.adopt(f"{source.name}_pad")
            padded.shape, padded.reads = source.shape, {source: None}
            replace_read(block, source, {padded: block.reads[source]})
        cut = self.adopt(f"{block.name}_pad")
        cut.shape, cut.reads = block.shape, {block: None}
        for reader in readers:
            replace_read(reader, block, {cut: reader.reads[block]})

    def move_under(self, block: Block, target: BlockLoop, *, reads_target: bool) -> None:
        """Moves a block under a loop of another one; it gets one new loop for each of its axes.

        Args:
            block: Computes from then on only what is needed inside the loop.
            target: The loop.
            reads_target: Whether the block reads, point by point, what the target's block
                writes; else the target's block reads the block.

        Raises:
            RecordError: The loop is the block's own, or inside it.
        """
        if target.block is block or is_under(target.block, block):
            raise RecordError(f"block {block.name!r} cannot move under a loop inside itself")
        inside = covered_inside(target)
        if reads_target:
            spatial = [inside.get(axis, extent) for axis, extent in enumerate(block.shape)]
        else:
            spatial = self._region(block, target.block, inside, {})
        reductions = [loop.extent for loop in block.loops if loop.reduction]
        block.loops = [
            BlockLoop(block, checked(extent), axis >= len(spatial), axis)
            for axis, extent in enumerate([*spatial, *reductions])
        ]
        block.host = target

    def _region(
        self, block: Block, target: Block, inside: dict[int, int], known: dict[Block, list[int]]
    ) -> list[int]:
        """Extents of the part of a block's buffer that is read in `inside` steps of a target.

        Readers that moved under the target's loops before read what their own part needs; `known`
        keeps these, for several may read one block.
        """
        if block not in known:
            known[block] = self._read_region(block, target, inside, known)
        return known[block]

    def _read_region(
        self, block: Block, target: Block, inside: dict[int, int], known: dict[Block, list[int]]
    ) -> list[int]:
        extents = [1] * len(block.shape)
        for reader in self.consumers(block):
            if reader is target:
                steps = inside
            elif is_under(reader, target):
                spatial = self._region(reader, target, inside, known)
                reductions = [loop.extent for loop in reader.loops if loop.reduction]
                steps = dict(enumerate([*spatial, *reductions]))
            else:
                return list(block.shape)
            strides = reader.reads[block]
            if strides is None:
                return list(block.shape)
            read = [1] * len(block.shape)
            for axis, stride in enumerate(strides):
                for dimension, offset in enumerate(offsets(stride, block.shape)):
                    read[dimension] += (steps.get(axis, 1) - 1) * offset
            extents = list(map(max, extents, read))
        return list(map(min, extents, block.shape))

    def inline(self, block: Block) -> None:
        """Computes a block where it is read."""
        for reader in self.consumers(block):
            through = {
                producer: composed(reader.reads[block], block.shape, strides)
                for producer, strides in block.reads.items()
            }
            replace_read(reader, block, through)
        block.inlined = True

    def inline_into_producer(self, block: Block, producer: Block | None = None) -> None:
        """Computes a block where what it reads is written, by default the first of that."""
        producer = producer or next(iter(self.producers(block)), None)
        if producer is None:
            raise RecordError(f"block {block.name!r} reads no block that it could be inlined into")
        for reader in self.consumers(block):
            replace_read(reader, block, {producer: reader.reads[block]})
        for other in block.producers:
            if other is not producer:
                producer.reads.setdefault(other, None)
        block.inlined = True

    def cache_read(self, source: Block, readers: Sequence[Block], scope: str) -> Block:
        """Inserts a copy of what `source` writes, for some of its readers."""
        copy = self._insert_copy(source, f"{source.name}_{scope}")
        copy.reads = {source: copy.write}
        for reader in readers:
            replace_read(reader, source, {copy: reader.reads[source]})
        return copy

    def cache_write(self, block: Block, scope: str) -> Block:
        """Inserts the copy of a block's result to where it was written before."""
        readers = self.consumers(block)
        copy = self._insert_copy(block, f"{block.name}_{scope}")
        copy.reads = {block: copy.write}
        for reader in readers:
            if reader is not copy:
                replace_read(reader, block, {copy: reader.reads[block]})
        return copy

    def rfactor(self, loop: BlockLoop, factor_axis: int) -> tuple[Block, tuple[int, ...]]:
        """Lets a block compute partial results along a reduction loop.

        Args:
            loop: Becomes a spatial axis.
            factor_axis: Where that axis stands in the partial results' shape.

        Returns:
            The new block that reduces them, which takes the old one's name and readers; and how
            the old one's loops follow from the order that Ansor gives them (the shape, then
            reductions), for TVM leaves them where they were.
        """
        block = loop.block
        readers = self.consumers(block)
        final = self._insert_copy(block, block.name)
        final.loops.append(BlockLoop(final, loop.extent, reduction=True, axis=len(final.shape)))
        for reader in readers:
            replace_read(reader, block, {final: reader.reads[block]})
        spatial = [other for other in block.loops if not other.reduction]
        spatial.insert(factor_axis if factor_axis >= 0 else len(spatial) + 1 + factor_axis, loop)
        reductions = [other for other in block.loops if other.reduction and other is not loop]
        loop.reduction = False
        ansors = [*spatial, *reductions]
        shape = tuple(other.extent for other in spatial)
        partial = row_major(shape)
        factor = spatial.index(loop)
        final.reads = {block: (*partial[:factor], *partial[factor + 1 :], partial[factor])}
        order = tuple(
            next(at for at, other in enumerate(ansors) if other is kept) for kept in block.loops
        )
        block.name, block.write = f"{block.name}_rf", partial + (0,) * len(reductions)
        block.reads = {read: along(ansors, strides) for read, strides in block.reads.items()}
        for axis, other in enumerate(ansors):
            other.axis, other.stride = axis, 1
        block.shape = shape
        return final, order

    def _insert_copy(self, source: Block, name: str) -> Block:
        if len(self._blocks) >= MAX_BLOCKS:
            raise RecordError(f"a schedule has at most {MAX_BLOCKS} blocks")
        shape = source.shape or tuple(loop.extent for loop in source.loops)
        at = source.position + 1
        copy = Block(name, shape, row_major(shape), {}, is_input=False, position=at)
        copy.loops = [
            BlockLoop(copy, extent, reduction=False, axis=axis) for axis, extent in enumerate(shape)
        ]
        for later in self._blocks[at:]:
            later.position += 1
        self._blocks.insert(at, copy)
        return copy
