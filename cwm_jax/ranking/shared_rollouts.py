"""Ranks logs of searches, whose candidates descend from each other: each beginning once."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Int, UInt64

from cwm_jax.features.batch import StepArrays, bucket
from cwm_jax.features.graph import GraphArrays
from cwm_jax.model.ensemble import EnsembleRanking
from cwm_jax.model.inputs import Schedules
from cwm_jax.model.segments import (
    SEGMENT,
    begin_together,
    end_together,
    fingerprints,
    go_on_together,
)

_WIDTHS = (256, 512, 768, 1024, 1536, 2048)
"""Padded numbers of beginnings; each pair of neighbouring segments compiles a program."""

_WORTHWHILE = 0.7
"""Share of the steps, padding included, that must be left for sharing to pay: it has to look at
all steps, and to gather latents between segments."""


class Segment(NamedTuple):
    """The distinct beginnings up to the end of a segment of steps.

    Attributes:
        steps: Which steps it holds.
        candidate: One that begins so.
        parent: The beginning of the segment before that it goes on from.
    """

    steps: slice
    candidate: Int[np.ndarray, "beginning"]
    parent: Int[np.ndarray, "beginning"]

    @property
    def work(self) -> int:
        """Steps to apply, padding included."""
        return (self.steps.stop - self.steps.start) * _padded(len(self.candidate))


class Plan(NamedTuple):
    """What to roll out.

    Attributes:
        segments: In the order of the steps.
        ended: Which beginning of the last segment each candidate is.
    """

    segments: Sequence[Segment]
    ended: Int[np.ndarray, "candidate"]

    @property
    def work(self) -> int:
        """Steps to apply, padding included."""
        return sum(segment.work for segment in self.segments)


def plan_segments(prints: UInt64[np.ndarray, "candidate segment"]) -> Plan:
    """Finds the distinct beginnings of schedules.

    Segments of equal padded size are rolled out as one.

    Args:
        prints: Equal where two schedules are the same up to the end of a segment.
    """
    found = [np.unique(column, return_index=True, return_inverse=True) for column in prints.T]
    sizes = [_padded(len(candidate)) for _, candidate, _ in found]
    segments: list[Segment] = []
    start, begun = 0, np.zeros(len(prints), np.int64)
    for at, (_, candidate, ended) in enumerate(found):
        if sizes[at] not in sizes[at + 1 :]:
            stop = (at + 1) * SEGMENT
            segments.append(Segment(slice(start, stop), candidate, begun[candidate]))
            start, begun = stop, ended
    return Plan(segments, begun)


class SharedRollouts:
    """Ranks a batch of schedules, each of its distinct beginnings once.

    Args:
        graphdef: Of an ensemble of world models.
        state: Of it.
    """

    def __init__(self, graphdef: Any, state: Any) -> None:
        self._state = state
        self._begin, self._go_on, self._end = _compiled(graphdef)

    def __call__(
        self, graph: GraphArrays, steps: StepArrays, hardware: Float32[np.ndarray, "column"]
    ) -> EnsembleRanking | None:
        """Ranks schedules, or returns None where too little is shared."""
        if len(steps.length) <= _WIDTHS[0]:
            return None
        plan = plan_segments(_fingerprints(steps))
        if plan.work > _WORTHWHILE * steps.kind.size:
            return None
        return self.rank(graph, steps, plan, hardware)

    def rank(
        self,
        graph: GraphArrays,
        steps: StepArrays,
        plan: Plan,
        hardware: Float32[np.ndarray, "column"],
    ) -> EnsembleRanking:
        """Ranks schedules by plan."""
        initial = self._begin(self._state, graph, steps.values.shape[-1])
        standing = initial
        for segment in plan.segments:
            schedules = _cut(steps, segment.steps, _pad(segment.candidate))
            standing = self._go_on(self._state, standing, _pad(segment.parent), schedules, hardware)
        return self._end(self._state, graph, initial, standing, plan.ended, hardware)


def _fingerprints(steps: StepArrays) -> UInt64[np.ndarray, "candidate segment"]:
    schedules = Schedules(*(getattr(steps, name) for name in Schedules._fields))
    lanes = np.ascontiguousarray(_compiled_fingerprints(schedules))
    return lanes.view(np.uint64)[..., 0]


def _cut(steps: StepArrays, some: slice, candidates: Int[np.ndarray, "row"]) -> Schedules:
    """Some steps of some candidates."""
    length = np.clip(steps.length[candidates] - some.start, 0, some.stop - some.start)
    arrays: list[Any] = [
        getattr(steps, name)[candidates, some] for name in Schedules._fields if name != "length"
    ]
    return Schedules(*[*arrays, length])


def _padded(count: int) -> int:
    return bucket(count, _WIDTHS)


def _pad(index: Int[np.ndarray, "row"]) -> Int[np.ndarray, "padded"]:
    return np.pad(index, (0, _padded(len(index)) - len(index)))


_compiled_fingerprints = jax.jit(fingerprints)


@lru_cache(maxsize=8)
def _compiled(graphdef: Any) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    return (
        jax.jit(partial(begin_together, graphdef), static_argnums=2),
        jax.jit(partial(go_on_together, graphdef)),
        jax.jit(partial(end_together, graphdef)),
    )
