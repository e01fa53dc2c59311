"""Features of each step, computed by replaying the schedule on the loop nests."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32

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
    ScheduleState,
    product_of,
    shallow_copy,
)
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.steps import STEP_KIND_IDS, TAGS

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

_LANES = 16
_UNROLL = "auto_unroll_max_step"
_SUMMED_UP = {
    "parallel": "parallel_tasks",
    "blockIdx.x": "parallel_tasks",
    "threadIdx.x": "threads",
    "vectorize": "vector_lanes",
}


class StepShape(NamedTuple):
    """A step without its numbers: what candidates of one structure share.

    Attributes:
        kind: Step kind.
        fields: Structural fields; the count for a list of numbers, the id for a tag.
    """

    kind: str
    fields: tuple[int | tuple[int, ...], ...]


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
        stages: Of any structures.
        values: Features to write into, at the last step of each stage.
    """
    alike: dict[Hashable, list[StageData]] = defaultdict(list)
    for stage in _neighbours_joined(stages):
        alike[stage.form].append(stage)
    for members in alike.values():
        columns = _data_columns(members)
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


def _data_columns(members: Sequence[StageData]) -> dict[str, Extents]:
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


class StepFeatures(NamedTuple):
    """Features of the steps of candidates, before sizes are scaled; zeros by default.

    Attributes:
        kind: Position of the step's kind in `STEP_KINDS`.
        tag: Position of its tag in `TAGS`.
        stage: Slot that the step changes.
        other: Slot that it also refers to.
        values: The columns `COLUMNS`, sizes as they are.
    """

    kind: Int32[np.ndarray, "candidate step"]
    tag: Int32[np.ndarray, "candidate step"]
    stage: Int32[np.ndarray, "candidate step"]
    other: Int32[np.ndarray, "candidate step"]
    values: Float32[np.ndarray, "candidate step column"]

    @classmethod
    def empty(cls, candidates: int, steps: int) -> "StepFeatures":
        """Returns features that are all zero."""
        kind, tag, stage, other = (np.zeros((candidates, steps), np.int32) for _ in range(4))
        values = np.zeros((candidates, steps, STEP_WIDTH), np.float32)
        return cls(kind, tag, stage, other, values)


class Replay:
    """Applies steps to a `ScheduleState` and writes each step's features.

    The steps applied so far differ in numbers only; `part` goes on with some of the candidates.

    Args:
        graph: The program.
        numbers: Of all steps to come, in the order of the steps' fields.
        features: Features to write into, of at least as many steps.

    Attributes:
        state: Stages and loops after the steps applied so far.
    """

    def __init__(
        self,
        graph: ComputeGraph,
        numbers: Float[np.ndarray, "candidate number"],
        features: StepFeatures,
    ) -> None:
        self.state = ScheduleState(graph, len(numbers))
        self._features = features
        self._numbers = numbers
        self._next = 0
        self._rows = slice(0, len(numbers))
        self._last_step: dict[int, int] = {}
        self._annotated: dict[tuple[int, str], Extents] = {}
        self._unroll: dict[int, Extents] = {}

    def part(self, some: slice) -> "Replay":
        """Returns a copy that continues with some of the candidates, and writes to the same arrays.

        The original must not apply more steps.
        """
        found = shallow_copy(self)
        found.state = self.state.part(some)
        found._rows = slice(self._rows.start + some.start, self._rows.start + some.stop)
        found._features = StepFeatures(*(array[some] for array in self._features))
        found._numbers = self._numbers[some]
        found._last_step = dict(self._last_step)
        found._annotated = {key: extent[some] for key, extent in self._annotated.items()}
        found._unroll = {slot: limit[some] for slot, limit in self._unroll.items()}
        return found

    def _number(self) -> Extents:
        self._next += 1
        return self._numbers[:, self._next - 1]

    def apply(self, at: int, shape: StepShape) -> None:
        """Applies step number `at`."""
        self._row = np.zeros((len(self._numbers), STEP_WIDTH), np.float32)
        self._tag = 0
        stage: int = shape.fields[0]  # type: ignore[assignment]
        nest = self.state.nest(stage)
        written, other = _APPLY[shape.kind](self, at, shape.fields, nest)
        self._describe_nest(written)
        self._features.values[:, at] = self._row
        self._features.kind[:, at] = STEP_KIND_IDS[shape.kind]
        self._features.tag[:, at] = self._tag
        self._features.stage[:, at] = written.slot
        self._features.other[:, at] = other.slot
        if shape.kind != "CI":
            self._last_step[written.slot] = at

    def finish(self) -> list[StageData]:
        """Writes a summary of each stage's annotations on the last step that changes it.

        Returns:
            The stages whose data movement `describe_data` has to add there.
        """
        left: list[StageData] = []
        for nest in self.state.nests:
            at = self._last_step.get(nest.slot)
            if at is None:
                continue
            self._row = self._features.values[:, at]
            for tag, column in _SUMMED_UP.items():
                if (nest.slot, tag) in self._annotated:
                    self._set(column, self._annotated[nest.slot, tag])
            if (nest.slot, "parallel") in self._annotated:
                tasks = np.maximum(self._annotated[nest.slot, "parallel"], 1)
                for cores in CORES:
                    self._set(f"balance_{cores}", tasks / (np.ceil(tasks / cores) * cores))
            if nest.accesses and any(loop.covers for loop in nest.uncut_loops):
                limit = self._unroll.get(nest.slot, np.zeros(len(self._numbers)))
                vectorized = (nest.slot, "vectorize") in self._annotated
                left.append(StageData(nest, limit, vectorized, at, self._rows))
        return left

    def _set(self, column: str, value: Extents | float) -> None:
        self._row[:, COLUMNS[column]] = value

    def _describe_nest(self, nest: Nest) -> None:
        self._set("depth", len(nest.loops) / 16)
        for at, loop in enumerate(reversed(nest.loops[-INNERMOST:])):
            self._set(f"innermost_{at}", loop.extent)
            self._set(f"innermost_{at}_reduction", loop.reduction)

    def _describe_loop(self, nest: Nest, position: int) -> Loop:
        loop = nest.loop(position, np.zeros(len(self._numbers)))
        self._set("position", (position + 1) / 16)
        self._set("from_inside", (len(nest.loops) - position) / 16)
        self._set("extent", loop.extent)
        self._set("reduction", loop.reduction)
        self._set("known", loop.extent > 0)
        self._set("outer_product", product_of(nest.loops[:position]))
        self._set("inner_product", product_of(nest.loops[position + 1 :]))
        return loop

    def _note_split(
        self, at: int, nest: Nest, fields: tuple, factors: list[Extents], *, inner: bool
    ) -> tuple[Nest, Nest]:
        stage, position = fields[:2]
        extent = self._describe_loop(nest, position).extent
        product = np.multiply.reduce(factors) if factors else np.ones(len(self._numbers))
        parts = self.state.split(at, stage, position, factors, inner=inner)
        self._set("factor_product", product)
        self._set("divisible", np.mod(extent, np.maximum(product, 1)) == 0)
        self._set("lane_multiple", np.mod(parts[-1].extent, _LANES) == 0)
        for number, part in enumerate(reversed(parts[-PARTS:])):
            self._set(f"part_{number}", part.extent)
        return nest, nest

    def _split(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        stage, position, count, inner = fields
        self.state.set_extent(stage, position, self._number())
        factors = [self._number() for _ in range(count)]
        return self._note_split(at, nest, fields, factors, inner=bool(inner))

    def _follow_split(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        factors = self.state.followed_factors(fields[2], fields[3])
        return self._note_split(at, nest, fields, factors, inner=True)

    def _follow_fused_split(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        factor = self.state.fused_factor(fields[2], fields[3])
        return self._note_split(at, nest, fields, [factor], inner=bool(fields[4]))

    def _annotate(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        loop = self._describe_loop(nest, fields[1])
        self._set("lane_multiple", np.mod(loop.extent, _LANES) == 0)
        self._tag = fields[2]
        number = self._number()
        self._set("number", number)
        if TAGS[self._tag] == _UNROLL:
            self._unroll[nest.slot] = number
        self._annotated[nest.slot, TAGS[self._tag]] = loop.extent
        return nest, nest

    def _fuse(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        fused = self.state.fuse(fields[0], fields[1])
        self._describe_loop(nest, min(fields[1], default=0))
        self._set("reduction", fused.reduction)
        self._set("other_number", float(len(fields[1])))
        return nest, nest

    def _reorder(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        self.state.reorder(fields[0], fields[1])
        self._set("extent", nest.points)
        return nest, nest

    def _storage_align(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        self._describe_loop(nest, fields[1])
        self._set("number", self._number())
        self._set("other_number", self._number())
        return nest, nest

    def _compute_at(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        target = self.state.nest(fields[1])
        self._describe_loop(target, fields[2])
        self._set("number", nest.points)
        attachment = self.state.attachment(fields[0], fields[1], fields[2])
        self._set("attached_runs", attachment.runs)
        self._set("attached_elements", attachment.elements)
        self._set("repeats", attachment.repeats)
        return nest, target

    def _compute_inline(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        reader = self.state.inline(fields[0])
        self._set("extent", nest.points)
        self._set("repeats", reader.points / np.maximum(nest.points, 1))
        self._set("inlined_selects", nest.selects)
        self._set("reduction", any(loop.reduction for loop in reader.loops))
        return nest, reader

    def _compute_root(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        self._set("extent", nest.points)
        return nest, nest

    def _cache_read(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        inserted = self.state.cache_read(fields[0])
        self._tag = fields[1]
        self._set("number", self._number())
        self._set("extent", inserted.points)
        self._set("readers", len(fields[2]) / 4)
        return inserted, nest

    def _cache_write(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        inserted = self.state.cache_write(fields[0])
        self._tag = fields[1]
        self._set("number", self._number())
        self._set("extent", inserted.points)
        return inserted, nest

    def _rfactor(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        self._describe_loop(nest, fields[1])
        return self.state.rfactor(fields[0], fields[1], fields[2]), nest

    def _move(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        stage, target_stage, position, reads_target, count = fields
        target = self.state.nest(target_stage)
        self._describe_loop(target, position)
        self._set("number", nest.points)
        self._set("other_number", float(reads_target))
        self.state.replace_loops(stage, [self._number() for _ in range(count)])
        return nest, target

    def _tensorize(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        self._describe_loop(nest, fields[1])
        self._tag = fields[2]
        self._set("number", self._number())
        return nest, nest

    def _set_scope(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        self._tag = fields[1]
        self._set("number", self._number())
        self._set("extent", nest.points)
        return nest, nest

    def _pad(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        paddings = [self._number() for _ in range(fields[1])]
        self._set("number", max(map(np.max, paddings), default=0))
        self._set("extent", nest.points)
        return nest, nest


_APPLY = {
    "AN": Replay._annotate,
    "FU": Replay._fuse,
    "PR": Replay._annotate,
    "RE": Replay._reorder,
    "SP": Replay._split,
    "FSP": Replay._follow_split,
    "FFSP": Replay._follow_fused_split,
    "SA": Replay._storage_align,
    "CA": Replay._compute_at,
    "CI": Replay._compute_inline,
    "CR": Replay._compute_root,
    "CHR": Replay._cache_read,
    "CHW": Replay._cache_write,
    "RF": Replay._rfactor,
    "MV": Replay._move,
    "TZ": Replay._tensorize,
    "SC": Replay._set_scope,
    "PD": Replay._pad,
    "IN": Replay._tensorize,
}
