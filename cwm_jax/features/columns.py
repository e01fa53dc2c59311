"""The columns that describe a step: their names, and those that say how stages move data."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from cwm_jax.features.cache_model import (
    CAPACITIES,
    Cover,
    innermost_body,
    innermost_step,
    touched_by,
    traffic,
    unrolled_loops,
)
from cwm_jax.features.schedule_state import (
    Extents,
    Loop,
    Nest,
)

PARTS = 5
INNERMOST = 5
CORES = (2, 4, 8, 16, 32, 64)
"""Numbers of cores for which a column says how evenly they share a parallel loop."""
SIZES = (
    "extent",
    "factor_product",
    *(f"part_{part}" for part in range(PARTS)),
    "outer_product",
    "inner_product",
    "number",
    "other_number",
    *(f"innermost_{loop}" for loop in range(INNERMOST)),
    *(f"traffic_{capacity}" for capacity in CAPACITIES),
    "body_writes",
    "body_reads",
    "parallel_tasks",
    "vector_lanes",
    "threads",
    "unrolled",
    "unrolled_writes",
    "unrolled_reads",
    "attached_runs",
    "attached_elements",
    "repeats",
)
"""Columns that hold sizes; encoded as `log2(1 + size) / 8`."""
FLAGS = (
    "position",
    "from_inside",
    "depth",
    "divisible",
    "lane_multiple",
    "reduction",
    "known",
    "readers",
    *(f"innermost_{loop}_reduction" for loop in range(INNERMOST)),
    "innermost_stride_0",
    "innermost_stride_1",
    "innermost_stride_more",
    "innermost_gathers",
    "unrolled_body",
    "inlined_selects",
    *(f"balance_{cores}" for cores in CORES),
)
"""Columns that are already of unit scale."""
STATED = (*(f"part_{at}" for at in range(PARTS)), "number", "other_number", "position", "readers")
"""Columns that come from the step's own fields; the others come from the replay."""
COLUMNS = {name: at for at, name in enumerate((*SIZES, *FLAGS))}
STEP_WIDTH = len(COLUMNS)


class StageData(NamedTuple):
    """A stage of the candidates of one structure whose data movement is to be described.

    Attributes:
        nest: The stage.
        limit: `auto_unroll_max_step` of each candidate.
        vectorized: Whether the innermost loop is a vector.
        at: The step that sums the stage up.
        rows: The candidates.
    """

    nest: Nest
    limit: Extents
    vectorized: bool
    at: int
    rows: slice

    @property
    def form(self) -> Hashable:
        """All but the numbers."""
        loops = tuple(
            (loop.reduction, *(cover.axis for cover in loop.covers))
            for loop in self.nest.uncut_loops
        )
        return self.nest.accesses, loops, self.vectorized

    def joined(self, after: "StageData") -> "StageData | None":
        """Returns the stage of both's candidates; None unless it became what it is for both."""
        alike = (self.vectorized, self.at) == (after.vectorized, after.at)
        nest = self.nest.joined(after.nest) if alike else None
        if nest is None or self.rows.stop != after.rows.start:
            return None
        limit = np.concatenate([self.limit, after.limit])
        return self._replace(nest=nest, limit=limit, rows=slice(self.rows.start, after.rows.stop))


def describe_data(
    stages: Sequence[StageData], values: Float32[np.ndarray, "candidate step column"]
) -> None:
    """Computes what data the loops of stages move, for all stages of one form at once.

    Structures are many and their candidates few, but most of them share the form of the stage
    that another one changes.

    Args:
        stages: Stages of any structures.
        values: Features to write into, at the last step of each stage.
    """
    alike: dict[Hashable, list[StageData]] = defaultdict(list)
    for stage in _neighbours_joined(stages):
        alike[stage.form].append(stage)
    for members in alike.values():
        columns = data_columns(members)
        at = [COLUMNS[name] for name in columns]
        found = np.stack(list(columns.values()), axis=1)
        start = 0
        for stage in members:
            stop = start + stage.rows.stop - stage.rows.start
            values[stage.rows, stage.at][:, at] = found[start:stop]
            start = stop


def _neighbours_joined(stages: Sequence[StageData]) -> list[StageData]:
    """Joins what structures have in common: stages that none of them changed on its own."""
    found: list[StageData] = []
    for stage in sorted(stages, key=lambda stage: (stage.nest.slot, stage.rows.start)):
        both = found[-1].joined(stage) if found else None
        if both:
            found[-1] = both
        else:
            found.append(stage)
    return found


def _side_by_side(members: Sequence[StageData]) -> list[Loop]:
    """The loops of all candidates of stages of one form."""
    if len(members) == 1:
        return members[0].nest.loops
    return [
        Loop(
            np.concatenate([loop.extent for loop in same]),
            same[0].reduction,
            tuple(
                Cover(covers[0].axis, np.concatenate([cover.extent for cover in covers]))
                for covers in zip(*(loop.covers for loop in same), strict=True)
            ),
        )
        for same in zip(*(stage.nest.loops for stage in members), strict=True)
    ]


def data_columns(members: Sequence[StageData]) -> dict[str, Extents]:
    """Returns the columns that say what running stages side by side reads and writes."""
    own_loops = _side_by_side(members)
    accesses, vectorized = members[0].nest.accesses, members[0].vectorized
    limit = np.concatenate([stage.limit for stage in members])
    loops = [loop.covers for loop in own_loops]
    extents = [loop.extent for loop in own_loops]
    reductions = [loop.reduction for loop in own_loops]
    found = touched_by(accesses, loops)
    sizes = traffic(found, extents)
    written, read = innermost_body(found, extents, reductions)
    step = innermost_step(accesses, loops)
    unrolled = unrolled_loops(found, extents, reductions, limit, vectorized=vectorized)
    return {
        **{f"traffic_{size}": moved for size, moved in zip(CAPACITIES, sizes, strict=True)},
        "body_writes": written,
        "body_reads": read,
        "innermost_stride_0": step.stays,
        "innermost_stride_1": step.next,
        "innermost_stride_more": step.jumps,
        "innermost_gathers": step.gathers,
        "unrolled": unrolled.copies,
        "unrolled_writes": unrolled.written,
        "unrolled_reads": unrolled.read,
        "unrolled_body": unrolled.whole_body,
    }
