"""Integer bookkeeping of a schedule: which stage a step addresses, which loops it leaves.

Ansor numbers stages by their current position, and some steps insert stages, so ids shift.
This module replays the bookkeeping of `src/auto_scheduler/{loop_state,transform_step}.cc`
without TVM, for many candidates at once: candidates of one structure differ only in numbers,
so an extent is an array with one entry a candidate. An extent of 0 is unknown.

Where Ansor would run bound inference (extents of a stage computed at another's loop) the last
known extent is kept; the next split of that loop states its true one.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from cwm_jax.errors import RecordError
from cwm_jax.features.cache_model import Access, Cover, coverage, split_covers, touched
from cwm_jax.records.graph import OPERATION_KINDS, ComputeGraph, Stage, element_bytes

_SELECT = OPERATION_KINDS.index("select")
MAX_STAGES = 120
MAX_LOOPS = 256

Extents = Float[np.ndarray, "candidate"]
Owner = TypeVar("Owner")


class Loop(NamedTuple):
    """A loop.

    Attributes:
        extent: Trip count of each candidate.
        reduction: Whether it reduces.
        covers: Which of the stage's axes it steps through, outermost first; empty where unknown.
    """

    extent: Extents
    reduction: bool
    covers: tuple[Cover, ...] = ()

    def part(self, some: slice) -> "Loop":
        """Returns the loop of some of the candidates."""
        extent = self.extent[some]
        if len(self.covers) == 1 and self.covers[0].extent is self.extent:
            return Loop(extent, self.reduction, (Cover(self.covers[0].axis, extent),))
        covers = tuple(Cover(cover.axis, cover.extent[some]) for cover in self.covers)
        return Loop(extent, self.reduction, covers)


class Nest:
    """The loops of one stage, outermost first.

    Args:
        slot: The stage's row in the latent state; never changes.
        shape: Spatial loops of the stage's output buffer, as a copy of it would have.
        loops: Current loops.
        accesses: Its write and its reads, with a stride for each axis; empty where unknown.
        buffer: Slot whose buffer it holds: its own, or what a cache-read stage copies.
        selects: Whether it chooses between values, as padding does.
    """

    def __init__(
        self,
        slot: int,
        shape: list[Loop],
        loops: list[Loop],
        accesses: tuple[Access, ...] = (),
        *,
        buffer: int,
        selects: bool = False,
    ) -> None:
        self.slot, self.accesses, self.buffer, self.selects = slot, accesses, buffer, selects
        self._shape, self._loops = shape, loops
        # Candidates to which each is still to be cut.
        self._some_of_shape: slice | None = None
        self._some_of_loops: slice | None = None

    @property
    def shape(self) -> list[Loop]:
        """Spatial loops of the output buffer."""
        if self._some_of_shape is not None:
            self._shape = [loop.part(self._some_of_shape) for loop in self._shape]
            self._some_of_shape = None
        return self._shape

    @property
    def loops(self) -> list[Loop]:
        """Current loops; the list is the nest's own."""
        if self._some_of_loops is not None:
            self._loops = [loop.part(self._some_of_loops) for loop in self._loops]
            self._some_of_loops = None
        return self._loops

    def replace(self, shape: list[Loop], loops: list[Loop]) -> None:
        """Gives the nest other loops."""
        self._shape, self._loops = shape, loops
        self._some_of_shape = self._some_of_loops = None

    def part(self, some: slice) -> "Nest":
        """Returns a copy for some of the candidates; this one must not change any more.

        Few stages are looked at again, so the loops are cut only then.
        """
        found = shallow_copy(self)
        found._some_of_shape = _within(self._some_of_shape, some)
        found._some_of_loops = _within(self._some_of_loops, some)
        return found

    @property
    def uncut_loops(self) -> list[Loop]:
        """Current loops, perhaps of more candidates than the nest's: their extents are not its."""
        return self._loops

    def joined(self, after: "Nest") -> "Nest | None":
        """Returns the nest of both's candidates, None unless both are neighbouring parts of one."""
        mine, its = self._some_of_loops, after._some_of_loops
        if self._loops is not after._loops or not mine or not its or mine.stop != its.start:
            return None
        found = shallow_copy(self)
        found._some_of_loops = slice(mine.start, its.stop)
        return found

    @property
    def points(self) -> Extents | float:
        """Iterations of its loops."""
        return product_of(self.loops)

    def loop(self, position: int, unknown: Extents) -> Loop:
        """Returns a loop; positions beyond the known nest are loops of unknown extent."""
        if position >= MAX_LOOPS:
            raise RecordError(f"loop {position}: a stage has at most {MAX_LOOPS} loops")
        while position >= len(self.loops):
            self.loops.append(Loop(unknown, reduction=False))
        return self.loops[position]


def shallow_copy(found: Owner) -> Owner:
    """Returns what `copy.copy` does for objects without slots, several times as fast."""
    made = object.__new__(type(found))
    made.__dict__.update(found.__dict__)
    return made


def _within(outer: slice | None, inner: slice) -> slice:
    start = outer.start if outer else 0
    return slice(start + inner.start, start + inner.stop)


class Attachment(NamedTuple):
    """What a stage computes when it moves under a loop of another.

    Attributes:
        runs: How often that loop's body runs.
        elements: Elements of the stage that one run needs, 0 where unknown.
        repeats: All elements that it computes over those that it holds, 0 where unknown.
    """

    runs: Extents
    elements: Extents
    repeats: Extents


class ScheduleState:
    """The stages of a program while the same steps, but for numbers, are applied to candidates."""

    def __init__(self, graph: ComputeGraph, candidates: int) -> None:
        self._unknown: Extents = np.zeros(candidates)
        self._ones: Extents = np.ones(candidates)
        self.split_factors: dict[int, list[Extents]] = {}
        self.nests: list[Nest] = []
        for stage in graph.stages:
            shape = [self._axis(at, extent) for at, extent in enumerate(stage.shape)]
            loops = [
                self._axis(at, axis.extent, reduction=axis.reduction)
                for at, axis in enumerate(stage.axes)
            ]
            at = len(self.nests)
            selects = stage.operations[_SELECT] > 0
            accesses = _accesses(graph, stage)
            self.nests.append(Nest(at, shape, loops, accesses, buffer=at, selects=selects))
        self.slots = len(self.nests)
        self._inlined_into: dict[int, Nest] = {}

    def part(self, some: slice) -> "ScheduleState":
        """Returns a copy for some of the candidates; this one must not change any more."""
        found = shallow_copy(self)
        found._unknown, found._ones = self._unknown[some], self._ones[some]
        found.split_factors = {
            step: [factor[some] for factor in factors]
            for step, factors in self.split_factors.items()
        }
        found.nests = [nest.part(some) for nest in self.nests]
        by_slot = {nest.slot: nest for nest in found.nests}
        found._inlined_into = {
            slot: by_slot[reader.slot] for slot, reader in self._inlined_into.items()
        }
        return found

    def _axis(self, axis: int, extent: int, *, reduction: bool = False) -> Loop:
        trips = self._ones * extent
        return Loop(trips, reduction, (Cover(axis, trips),))

    def nest(self, stage: int) -> Nest:
        """Returns the stage with the current id `stage`, adding unknown ones up to it."""
        if stage >= MAX_STAGES:
            raise RecordError(f"stage {stage}: a schedule has at most {MAX_STAGES} stages")
        while stage >= len(self.nests):
            self._insert(len(self.nests), [], ())
        return self.nests[stage]

    def loop(self, stage: int, position: int) -> Loop:
        """Returns a loop of a stage."""
        return self.nest(stage).loop(position, self._unknown)

    def _insert(self, position: int, shape: list[Loop], source: tuple[Access, ...]) -> Nest:
        """Inserts a stage that copies the buffer which `source`, its accesses, writes first."""
        if self.slots >= MAX_STAGES:
            raise RecordError(f"a schedule has at most {MAX_STAGES} stages")
        axes = len(shape)
        write = tuple(Access(access.strides[:axes], access.element_bytes) for access in source[:1])
        nest = Nest(self.slots, list(shape), list(shape), write * 2, buffer=self.slots)
        self.slots += 1
        self.nests.insert(position, nest)
        return nest

    def split(
        self, step: int, stage: int, position: int, factors: list[Extents], *, inner: bool
    ) -> list[Loop]:
        """Splits a loop into `factors` and the rest; the rest is outermost if `inner`."""
        nest = self.nest(stage)
        extent, reduction, covers = nest.loop(position, self._unknown)
        product = np.multiply.reduce(factors) if factors else self._ones
        rest = np.where(product > 0, np.ceil(extent / np.maximum(product, 1)), 0)
        parts = [rest, *factors] if inner else [*factors, rest]
        shares = split_covers(covers, parts) if covers else [()] * len(parts)
        new = [Loop(part, reduction, share) for part, share in zip(parts, shares, strict=True)]
        nest.loops[position : position + 1] = new
        self.split_factors[step] = factors
        return new

    def set_extent(self, stage: int, position: int, extent: Extents) -> None:
        """Notes the extent that a split step states, where it states one."""
        loop = self.loop(stage, position)
        known = np.where(extent > 0, extent, loop.extent)
        covers = loop.covers
        if len(covers) == 1:
            covers = (Cover(covers[0].axis, known),)
        self.nests[stage].loops[position] = Loop(known, loop.reduction, covers)

    def followed_factors(self, source: int, parts: int) -> list[Extents]:
        """Factors of a split that follows step `source` (`FollowSplitStep`)."""
        factors = self.split_factors.get(source, [])
        head = factors[: max(parts - 1, 0)]
        tail = factors[len(head) :]
        return [*head, np.multiply.reduce(tail) if tail else self._ones]

    def fused_factor(self, sources: tuple[int, ...], level: int) -> Extents:
        """Factor of a split that follows several (`FollowFusedSplitStep`)."""
        product = self._ones
        for source in sources:
            factors = self.split_factors.get(source, [])
            if level < len(factors):
                product = product * factors[level]
        return product

    def fuse(self, stage: int, positions: tuple[int, ...]) -> Loop:
        """Fuses adjacent loops; an empty list adds a loop of extent 1 outermost."""
        nest = self.nest(stage)
        if not positions:
            fused = Loop(self._ones, reduction=False)
            nest.loops.insert(0, fused)
            return fused
        parts = [nest.loop(position, self._unknown) for position in positions]
        extent = np.multiply.reduce([part.extent for part in parts])
        covers = tuple(cover for part in parts for cover in part.covers)
        fused = Loop(extent, any(part.reduction for part in parts), covers)
        remaining = [loop for at, loop in enumerate(nest.loops) if at not in set(positions)]
        first = min(positions)
        nest.loops[:] = [*remaining[:first], fused, *remaining[first:]]
        return fused

    def reorder(self, stage: int, order: tuple[int, ...]) -> None:
        """Permutes the loops of a stage; loops that the order leaves out stay innermost."""
        nest = self.nest(stage)
        if order:
            nest.loop(max(order), self._unknown)
        left_out = [at for at in range(len(nest.loops)) if at not in set(order)]
        nest.loops[:] = [nest.loops[at] for at in [*order, *left_out]]

    def replace_loops(self, stage: int, extents: list[Extents]) -> None:
        """Gives a stage that moved under another's loop one loop for each of its axes."""
        nest = self.nest(stage)
        reduced = {cover.axis for loop in nest.loops if loop.reduction for cover in loop.covers}
        axes = len(nest.accesses[0].strides) if nest.accesses else 0
        # A stage of partial results has more loops than its graph had axes.
        known = axes == len(extents)
        nest.loops[:] = [
            Loop(extent, axis in reduced, covers=(Cover(axis, extent),) if known else ())
            for axis, extent in enumerate(extents)
        ]

    def inline(self, stage: int) -> Nest:
        """Computes a stage inside the stage that reads it, and returns that one.

        Of several readers the one with most iterations; itself where none is known.
        """
        nest = self.nest(stage)
        readers = [
            self._inlined_into.get(reader.slot, reader)
            for reader in self.nests
            if any(access.producer == nest.buffer for access in reader.accesses[1:])
        ]
        known = [reader for reader in readers if reader is not nest]
        reader = max(known, key=lambda reader: float(np.max(reader.points)), default=nest)
        self._inlined_into[nest.slot] = reader
        return reader

    def attachment(self, stage: int, target_stage: int, position: int) -> Attachment:
        """Returns what a stage computes under a loop of one that reads it."""
        nest, target = self.nest(stage), self.nest(target_stage)
        runs = self._ones * product_of(target.loops[: position + 1])
        covers = [loop.covers for loop in target.loops[position + 1 :]]
        axes = len(target.accesses[0].strides) if target.accesses else 0
        covered = coverage(covers, axes, len(self._ones))
        elements = self._unknown
        for access in target.accesses[1:]:
            if access.producer == nest.buffer:
                elements = np.maximum(elements, touched(access, covered)[0][0])
        whole = np.maximum(product_of(nest.shape), 1)
        return Attachment(runs, elements, runs * elements / whole)

    def cache_read(self, stage: int) -> Nest:
        """Inserts a copy of a stage's buffer behind it."""
        source = self.nest(stage)
        inserted = self._insert(stage + 1, source.shape, source.accesses)
        inserted.buffer = source.buffer
        return inserted

    def cache_write(self, stage: int) -> Nest:
        """Inserts the stage that copies a local result out; the old slot keeps computing."""
        source = self.nest(stage)
        return self._insert(stage + 1, source.shape, source.accesses)

    def rfactor(self, stage: int, position: int, factor_position: int) -> Nest:
        """Turns a reduction loop into a spatial one of a stage that computes partial results.

        The old slot computes the partial results; the inserted stage reduces them.
        """
        nest = self.nest(stage)
        factored = nest.loop(position, self._unknown)
        reductions = [
            loop for at, loop in enumerate(nest.loops) if loop.reduction and at != position
        ]
        final = self._insert(stage + 1, nest.shape, nest.accesses)
        final.loops.append(factored._replace(covers=()))
        spatial = list(nest.shape)
        spatial.insert(factor_position, factored._replace(reduction=False))
        nest.replace(spatial, [*spatial, *reductions])
        return final


def product_of(loops: Sequence[Loop]) -> Extents | float:
    """Returns the iterations of nested loops; unknown extents count once."""
    if not loops:
        return 1.0
    # All at once: a call of NumPy costs more than the numbers of a few candidates.
    return np.multiply.reduce(np.maximum([loop.extent for loop in loops], 1))


def _accesses(graph: ComputeGraph, stage: Stage) -> tuple[Access, ...]:
    """The write of a stage, then its reads that are known; empty for a placeholder of no axes."""
    spatial = sum(not axis.reduction for axis in stage.axes) or len(stage.shape)
    axes = len(stage.axes) or len(stage.shape)
    strides = [0] * axes
    step = 1
    for axis in reversed(range(min(spatial, len(stage.shape)))):
        strides[axis] = step
        step *= stage.shape[axis]
    write = Access(tuple(strides), element_bytes(stage.dtype))
    reads = [
        Access(
            read.strides,
            element_bytes(graph.stages[read.producer].dtype),
            read.packed,
            read.folds,
            read.producer,
        )
        for read in stage.reads
        if read.known
    ]
    return (write, *reads)
