"""Moves between MetaSchedule's traces of the same instructions: one decision drawn anew.

They are TVM's own mutations (`src/s_tir/meta_schedule/mutator/mutate_{tile_size,unroll,
compute_location}.cc`): a divisor of a tile moves to another level, an unroll limit is drawn from
its candidates, a compute location is one that TVM has drawn for another trace.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from cwm_jax.records.metaschedule.trace import Trace

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
