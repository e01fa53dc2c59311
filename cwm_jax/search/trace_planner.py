"""Searches in latent space for MetaSchedule: evolves the decisions of traces, builds none."""

import contextlib
import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from cwm_jax.errors import RecordError
from cwm_jax.ranking.online import Schedule
from cwm_jax.ranking.scorer import Scores, join_scores, take_scores
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.metaschedule.trace import Trace
from cwm_jax.records.metaschedule.translate import translate_traces
from cwm_jax.search.planner import Correct, draw_parents

_TILE = "SamplePerfectTile"
_CHOICE = "SampleCategorical"
_LOCATION = "SampleComputeLocation"
_TILE_SHARE = 0.8
"""Of moves that change a tile, where there is something else to change, too."""


Locations = Mapping[int, Sequence[int]]
"""By position of a `SampleComputeLocation`: the decisions that TVM has drawn there, each once."""


def locations_of(trace: Trace) -> dict[int, int]:
    """Returns the compute locations that a trace has drawn, by position."""
    return {
        at: decision
        for at, decision in trace.decisions.items()
        if trace.instructions[at].kind == _LOCATION
    }


def mutate(trace: Trace, locations: Locations, rng: np.random.Generator) -> Trace:
    """Returns the trace with one decision drawn anew; as it is where there is none to draw.

    Args:
        trace: Parent.
        locations: Known of traces of the same instructions; which ones fit depends on the loops.
        rng: Source of the move.
    """
    tiles: list[int] = []
    others: list[int] = []
    for at, decision in trace.decisions.items():
        kind = trace.instructions[at].kind
        if kind == _TILE and len(decision) > 1 and max(decision) > 1:
            tiles.append(at)
        elif kind in (_CHOICE, _LOCATION):
            others.append(at)
    if not tiles and not others:
        return trace
    from_tiles = bool(tiles) and (not others or rng.random() < _TILE_SHARE)
    sites = tiles if from_tiles else others
    at = sites[int(rng.integers(len(sites)))]
    instruction = trace.instructions[at]
    drawn: Any
    if from_tiles:
        drawn = _moved(trace.decisions[at], int(instruction.attributes[1]), rng)
    elif instruction.kind == _CHOICE:
        drawn = int(rng.integers(len(instruction.attributes[0])))
    else:
        drawn = locations[at][int(rng.integers(len(locations[at])))]
    return trace._replace(decisions={**trace.decisions, at: drawn})


def cross(trace: Trace, mate: Trace, rng: np.random.Generator) -> Trace:
    """Returns a trace that has about half of its decisions from a mate of the same instructions."""
    taken = rng.random(len(trace.decisions)) < 0.5
    decisions = {
        at: mate.decisions[at] if from_mate else own
        for (at, own), from_mate in zip(trace.decisions.items(), taken, strict=True)
    }
    return trace._replace(decisions=decisions)


def _moved(tile: list[int], most_innermost: int, rng: np.random.Generator) -> list[int]:
    """Moves a divisor of one level to another, unless the innermost grows beyond its limit."""
    full = [at for at, extent in enumerate(tile) if extent > 1]
    source = full[int(rng.integers(len(full)))]
    target = (source + int(rng.integers(1, len(tile)))) % len(tile)
    extent = tile[source]
    divisors = _divisors(extent)
    divisor = divisors[int(rng.integers(len(divisors)))]
    moved = list(tile)
    moved[source] //= divisor
    moved[target] *= divisor
    return tile if moved[-1] > max(most_innermost, tile[-1]) else moved


@lru_cache(maxsize=1024)
def _divisors(extent: int) -> list[int]:
    """Divisors above 1."""
    small = [number for number in range(1, math.isqrt(extent) + 1) if extent % number == 0]
    return sorted({*small, *(extent // number for number in small)})[1:]


Rank = Callable[[Sequence[Schedule]], Scores]
"""Takes schedules of the planned program and returns the pretrained model's scores."""


@dataclasses.dataclass(frozen=True)
class TracePlannerConfig:
    """Sizes of the search in latent space.

    Attributes:
        population: Traces of a generation.
        generations: Generations of a plan.
        temperature: Temperature of the choice of parents, in standard deviations of the score.
        crossed: Share of a generation that mixes two parents.
        remembered: Traces that are kept from one plan to the next.
    """

    population: int = 512
    generations: int = 4
    temperature: float = 0.5
    crossed: float = 0.1
    remembered: int = 8192


def _ignore(_: RecordError) -> None:
    """Says nothing of a trace that cannot be followed: whoever had TVM make it does."""


class TracePlan(NamedTuple):
    """Traces that a planner proposes, best first.

    Attributes:
        traces: Distinct traces.
        schedules: Their steps.
        imagined: Traces that were scored for the first time.
    """

    traces: list[Trace]
    schedules: list[Schedule]
    imagined: int


class TracePlanner:
    """Evolves the traces of one program, from one plan to the next.

    Args:
        graph: Compute graph of the workload.
        rank: The pretrained model.
        config: Settings.
        rng: Source of all randomness.
    """

    def __init__(
        self, graph: ComputeGraph, rank: Rank, config: TracePlannerConfig, rng: np.random.Generator
    ) -> None:
        self._graph, self._rank, self._config, self._rng = graph, rank, config, rng
        self._traces: dict[Schedule, Trace] = {}
        self._ranked: list[Scores] = []
        # By the identity of the instructions, and position.
        self._locations: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._refused: set[Schedule] = set()
        self._half_read: set[int] = set()
        self._imagined = 0

    def add(self, traces: Iterable[Trace]) -> None:
        """Adds traces of the workload as parents.

        Args:
            traces: As TVM made them. Those of the same instructions share the very list of them.
        """
        found: list[tuple[Schedule, Trace]] = []
        for trace in traces:
            unread: list[RecordError] = []
            (schedule,) = translate_traces([trace], self._graph, unread.append)
            found.append((schedule, trace))
            if unread:
                self._half_read.add(id(trace.instructions))
        self._take(found)

    def _imagine(self, traces: Iterable[Trace]) -> None:
        """Takes in traces that TVM has not made; those that are none of it are left out."""
        found: list[tuple[Schedule, Trace]] = []
        for trace in traces:
            half_read = id(trace.instructions) in self._half_read
            with contextlib.suppress(RecordError):  # a location that the loops around do not have
                unread = _ignore if half_read else None
                (schedule,) = translate_traces([trace], self._graph, unread)
                found.append((schedule, trace))
        self._take(found)

    def _take(self, found: Sequence[tuple[Schedule, Trace]]) -> None:
        fresh: dict[Schedule, Trace] = {}
        for schedule, trace in found:
            if schedule not in self._traces:
                fresh.setdefault(schedule, trace)
            seen = self._locations[id(trace.instructions)]
            for at, location in locations_of(trace).items():
                if location not in seen[at]:
                    seen[at].append(location)
        if fresh:
            self._ranked.append(self._rank(list(fresh)))
            self._traces |= fresh
            self._imagined += len(fresh)

    def rank_again(self) -> None:
        """Scores all traces so far anew; call it when the model has changed."""
        self._ranked = [self._rank(list(self._traces))] if self._traces else []

    def refuse(self, schedule: Schedule) -> None:
        """Excludes a schedule that TVM cannot build: it is neither proposed nor a parent."""
        self._refused.add(schedule)

    def plan(self, correct: Correct, wanted: int) -> TracePlan:
        """Evolves all traces taken in and imagined so far, and returns the best.

        Args:
            correct: Corrects scores by what is measured.
            wanted: How many to return at most.
        """
        if not self._traces:
            return TracePlan([], [], 0)
        for _ in range(self._config.generations):
            self._imagine(self._children(self._scores(correct)))
        scores = self._scores(correct)
        order = np.argsort(-scores, kind="stable")
        best = order[: max(wanted, self._config.remembered)].tolist()
        known = list(self._traces.items())
        found = [known[at] for at in best[:wanted] if np.isfinite(scores[at])]
        plan = TracePlan([trace for _, trace in found], [key for key, _ in found], self._imagined)
        self._imagined = 0
        if len(known) > len(best):
            self._traces = dict(known[at] for at in best)
            self._ranked = [take_scores(self._ranked[0], best)]
        return plan

    def _scores(self, correct: Correct) -> Float32[np.ndarray, "trace"]:
        self._ranked = [join_scores(self._ranked)]
        scores = correct(self._ranked[0]).copy()
        if self._refused:
            scores[[schedule in self._refused for schedule in self._traces]] = -np.inf
        return scores

    def _children(self, scores: Float32[np.ndarray, "trace"]) -> list[Trace]:
        """Draws parents by score, and moves or crosses each once."""
        if not np.isfinite(scores).any():
            return []
        config = self._config
        drawn = draw_parents(scores, config.population, config.temperature, self._rng)
        traces = list(self._traces.values())
        alike: dict[int, list[Trace]] = defaultdict(list)
        for at in drawn:
            alike[id(traces[at].instructions)].append(traces[at])
        children: list[Trace] = []
        for instructions, parents in alike.items():
            mates = self._rng.integers(len(parents), size=len(parents))
            crossed = self._rng.random(len(parents)) < config.crossed
            for parent, mate, crosses in zip(parents, mates, crossed, strict=True):
                if crosses:
                    children.append(cross(parent, parents[mate], self._rng))
                else:
                    locations = self._locations[instructions]
                    children.append(mutate(parent, locations, self._rng))
        return children
