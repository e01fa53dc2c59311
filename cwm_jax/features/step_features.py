"""Features of each step, computed by replaying the schedule on the loop nests."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32

from cwm_jax.features.columns import COLUMNS, CORES, INNERMOST, PARTS, STEP_WIDTH, StageData
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
        graph: Compute graph of the workload.
        numbers: Numbers of all steps to come, in the order of the steps' fields.
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
