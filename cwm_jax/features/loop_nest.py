"""Integer bookkeeping of a schedule: which stage a step addresses, which loops it leaves.

Ansor numbers stages by their current position, and some steps insert stages, so ids shift.
This module replays the bookkeeping of `src/auto_scheduler/{loop_state,transform_step}.cc`
without TVM, for many candidates at once: candidates of one structure differ only in numbers,
so an extent is an array with one entry a candidate. An extent of 0 is unknown.

Where Ansor would run bound inference (extents of a stage computed at another's loop) the last
known extent is kept; the next split of that loop states its true one.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cwm_jax.errors import RecordError
from cwm_jax.records.program import Program

MAX_STAGES = 120
MAX_LOOPS = 256

Extents = Float[np.ndarray, "candidate"]


class Loop(NamedTuple):
    """A loop: trip count of each candidate, and whether it reduces."""

    extent: Extents
    reduction: bool


@dataclasses.dataclass
class Nest:
    """The loops of one stage, outermost first.

    Attributes:
        slot: The stage's row in the latent state; never changes.
        shape: Spatial loops of the stage's output buffer, as a copy of it would have.
        loops: Current loops.
    """

    slot: int
    shape: list[Loop]
    loops: list[Loop]

    def loop(self, position: int, unknown: Extents) -> Loop:
        """Returns a loop; positions beyond the known nest are loops of unknown extent."""
        if position >= MAX_LOOPS:
            raise RecordError(f"loop {position}: a stage has at most {MAX_LOOPS} loops")
        while position >= len(self.loops):
            self.loops.append(Loop(unknown, reduction=False))
        return self.loops[position]


class ScheduleState:
    """The stages of a program while steps are applied to many candidates of one structure."""

    def __init__(self, program: Program, candidates: int) -> None:
        self._unknown: Extents = np.zeros(candidates)
        self._ones: Extents = np.ones(candidates)
        self.split_factors: dict[int, list[Extents]] = {}
        self.nests: list[Nest] = []
        for stage in program.stages:
            shape = [Loop(self._ones * extent, reduction=False) for extent in stage.shape]
            loops = [Loop(self._ones * axis.extent, axis.reduction) for axis in stage.axes]
            self.nests.append(Nest(len(self.nests), shape, loops))
        self.slots = len(self.nests)

    def nest(self, stage: int) -> Nest:
        """Returns the stage with the current id `stage`, adding unknown ones up to it."""
        if stage >= MAX_STAGES:
            raise RecordError(f"stage {stage}: a schedule has at most {MAX_STAGES} stages")
        while stage >= len(self.nests):
            self._insert(len(self.nests), [])
        return self.nests[stage]

    def loop(self, stage: int, position: int) -> Loop:
        """Returns a loop of a stage."""
        return self.nest(stage).loop(position, self._unknown)

    def _insert(self, position: int, shape: list[Loop]) -> Nest:
        if self.slots >= MAX_STAGES:
            raise RecordError(f"a schedule has at most {MAX_STAGES} stages")
        nest = Nest(self.slots, list(shape), list(shape))
        self.slots += 1
        self.nests.insert(position, nest)
        return nest

    def split(
        self, step: int, stage: int, position: int, factors: list[Extents], *, inner: bool
    ) -> list[Loop]:
        """Splits a loop into `factors` and the rest; the rest is outermost if `inner`."""
        nest = self.nest(stage)
        extent, reduction = nest.loop(position, self._unknown)
        product = np.prod(factors, axis=0) if factors else self._ones
        rest = np.where(product > 0, np.ceil(extent / np.maximum(product, 1)), 0)
        parts = [rest, *factors] if inner else [*factors, rest]
        new = [Loop(part, reduction) for part in parts]
        nest.loops[position : position + 1] = new
        self.split_factors[step] = factors
        return new

    def set_extent(self, stage: int, position: int, extent: Extents) -> None:
        """Notes the extent that a split step states, where it states one."""
        loop = self.loop(stage, position)
        known = np.where(extent > 0, extent, loop.extent)
        self.nests[stage].loops[position] = loop._replace(extent=known)

    def followed_factors(self, source: int, parts: int) -> list[Extents]:
        """Factors of a split that follows step `source` (`FollowSplitStep`)."""
        factors = self.split_factors.get(source, [])
        head = factors[: max(parts - 1, 0)]
        tail = factors[len(head) :]
        return [*head, np.prod(tail, axis=0) if tail else self._ones]

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
        extent = np.prod([part.extent for part in parts], axis=0)
        fused = Loop(extent, any(part.reduction for part in parts))
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

    def cache_read(self, stage: int) -> Nest:
        """Inserts a copy of a stage's buffer behind it."""
        return self._insert(stage + 1, self.nest(stage).shape)

    def cache_write(self, stage: int) -> Nest:
        """Inserts the stage that copies a local result out; the old slot keeps computing."""
        return self._insert(stage + 1, self.nest(stage).shape)

    def rfactor(self, stage: int, position: int, factor_position: int) -> Nest:
        """Turns a reduction loop into a spatial one of a stage that computes partial results.

        The old slot computes the partial results; the inserted stage reduces them.
        """
        nest = self.nest(stage)
        factored = nest.loop(position, self._unknown)
        reductions = [
            loop for at, loop in enumerate(nest.loops) if loop.reduction and at != position
        ]
        final = self._insert(stage + 1, nest.shape)
        final.loops.append(factored)
        spatial = list(nest.shape)
        spatial.insert(factor_position, factored._replace(reduction=False))
        nest.shape, nest.loops = spatial, [*spatial, *reductions]
        return final
