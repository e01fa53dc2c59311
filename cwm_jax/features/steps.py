"""Schedules -> padded arrays for the step encoder.

Schedules are grouped by structure (everything but extents and factors); the bookkeeping of a
group runs once, its numbers as arrays over the group's candidates.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from cwm_jax.errors import RecordError
from cwm_jax.features.buckets import SLOT_BUCKETS, STEP_BUCKETS, bucket
from cwm_jax.features.loop_nest import Extents, Loop, Nest, ScheduleState
from cwm_jax.records.program import Program
from cwm_jax.records.steps import ANSOR_STEPS, STEP_KIND_IDS, Role, Step, split_tag

PARTS = 5
INNERMOST = 5

SIZES = (
    "extent",
    "factor_product",
    *(f"part_{part}" for part in range(PARTS)),
    "outer_product",
    "inner_product",
    "number",
    "other_number",
    *(f"innermost_{loop}" for loop in range(INNERMOST)),
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
)
"""Columns that are already of unit scale."""

COLUMNS = {name: at for at, name in enumerate((*SIZES, *FLAGS))}
STEP_WIDTH = len(COLUMNS)

_LANES = 16


@dataclasses.dataclass(frozen=True)
class StepArrays:
    """Schedules as arrays, padded to a bucket of steps.

    Attributes:
        kind: Position in `STEP_KINDS`, 0 in padding.
        tag: Position in `TAGS`.
        stage: Slot that the step changes.
        other: Slot that it also refers to (compute-at target, source of an inserted stage);
            the same as `stage` where there is none.
        values: The columns `COLUMNS`.
        length: Steps of each candidate.
        slots: Padded number of slots that any candidate needs.
    """

    kind: Int32[np.ndarray, "candidate step"]
    tag: Int32[np.ndarray, "candidate step"]
    stage: Int32[np.ndarray, "candidate step"]
    other: Int32[np.ndarray, "candidate step"]
    values: Float32[np.ndarray, "candidate step column"]
    length: Int32[np.ndarray, "candidate"]
    slots: int

    def take(self, index: np.ndarray) -> "StepArrays":
        """Returns the chosen candidates."""
        return StepArrays(
            self.kind[index],
            self.tag[index],
            self.stage[index],
            self.other[index],
            self.values[index],
            self.length[index],
            self.slots,
        )


class StepShape(NamedTuple):
    """A step without its numbers: what candidates of one structure share.

    Attributes:
        kind: Step kind.
        fields: Structural fields; the count for a list of numbers, the id for a tag.
    """

    kind: str
    fields: tuple[int | tuple[int, ...], ...]


_Numbers = tuple[int, ...]


def split_step(step: Step) -> tuple[StepShape, _Numbers]:
    """Separates the structure of a step from its numbers."""
    fields: list[int | tuple[int, ...]] = []
    numbers: list[int] = []
    for (_, role), value in zip(ANSOR_STEPS[step.kind], step.fields, strict=True):
        match role:
            case Role.NUMBER:
                numbers.append(value or 0)  # type: ignore[arg-type]
            case Role.NUMBERS:
                numbers.extend(value)  # type: ignore[arg-type]
                fields.append(len(value))  # type: ignore[arg-type]
            case Role.TAG:
                tag, number = split_tag(step.kind, value)  # type: ignore[arg-type]
                fields.append(tag)
                numbers.append(number)
            case _:
                fields.append(value)  # type: ignore[arg-type]
    return StepShape(step.kind, tuple(fields)), tuple(numbers)


def encode_schedules(schedules: Sequence[tuple[Step, ...]], program: Program) -> StepArrays:
    """Encodes schedules of one program.

    Args:
        schedules: Step sequences, any lengths.
        program: The program they schedule.

    Returns:
        Arrays in the order of `schedules`, padded to the bucket of the longest.

    Raises:
        RecordError: A schedule addresses a stage or loop that no program can have.
    """
    groups: dict[tuple[StepShape, ...], tuple[list[int], list[_Numbers]]] = {}
    pieces: dict[Step, tuple[StepShape, _Numbers]] = {}
    for at, schedule in enumerate(schedules):
        shapes: list[StepShape] = []
        numbers: list[int] = []
        for step in schedule:
            piece = pieces.get(step)
            if piece is None:
                piece = pieces[step] = split_step(step)
            shapes.append(piece[0])
            numbers.extend(piece[1])
        rows, rows_of_numbers = groups.setdefault(tuple(shapes), ([], []))
        rows.append(at)
        rows_of_numbers.append(tuple(numbers))

    longest = max((len(schedule) for schedule in schedules), default=0)
    size = (len(schedules), bucket(max(longest, 1), STEP_BUCKETS))
    kind, tag, stage, other = (np.zeros(size, np.int32) for _ in range(4))
    values = np.zeros((*size, STEP_WIDTH), np.float32)
    length = np.zeros(len(schedules), np.int32)
    slots = max(len(program.stages), 1)
    for structure, (rows, rows_of_numbers) in groups.items():
        replay = _Replay(program, np.array(rows_of_numbers, np.float64).reshape(len(rows), -1))
        for step_at, shape in enumerate(structure):
            replay.apply(step_at, shape)
        steps = len(structure)
        index = np.array(rows)
        kind[index, :steps] = replay.kind
        tag[index, :steps] = replay.tag
        stage[index, :steps] = replay.stage
        other[index, :steps] = replay.other
        if steps:
            values[index, :steps] = np.stack(replay.values, axis=1)
        length[index] = steps
        slots = max(slots, replay.state.slots)
    sizes = slice(0, len(SIZES))
    values[:, :, sizes] = np.log2(1 + values[:, :, sizes]) / 8
    return StepArrays(kind, tag, stage, other, values, length, bucket(slots, SLOT_BUCKETS))


class _Replay:
    """Applies steps to a `ScheduleState` and notes each step's features."""

    def __init__(self, program: Program, numbers: Float32[np.ndarray, "candidate number"]) -> None:
        self.state = ScheduleState(program, len(numbers))
        self.kind: list[int] = []
        self.tag: list[int] = []
        self.stage: list[int] = []
        self.other: list[int] = []
        self.values: list[Float32[np.ndarray, "candidate column"]] = []
        self._numbers = numbers
        self._next = 0

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
        self.kind.append(STEP_KIND_IDS[shape.kind])
        self.tag.append(self._tag)
        self.stage.append(written.slot)
        self.other.append(other.slot)
        self.values.append(self._row)

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
        self._set("outer_product", _product(nest.loops[:position]))
        self._set("inner_product", _product(nest.loops[position + 1 :]))
        return loop

    def _split(
        self, at: int, nest: Nest, fields: tuple, factors: list[Extents], *, inner: bool
    ) -> tuple[Nest, Nest]:
        stage, position = fields[:2]
        extent = self._describe_loop(nest, position).extent
        product = np.prod(factors, axis=0) if factors else np.ones(len(self._numbers))
        parts = self.state.split(at, stage, position, factors, inner=inner)
        self._set("factor_product", product)
        self._set("divisible", np.mod(extent, np.maximum(product, 1)) == 0)
        self._set("lane_multiple", np.mod(parts[-1].extent, _LANES) == 0)
        for number, part in enumerate(reversed(parts[-PARTS:])):
            self._set(f"part_{number}", part.extent)
        return nest, nest

    def split(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        stage, position, count, inner = fields
        self.state.set_extent(stage, position, self._number())
        factors = [self._number() for _ in range(count)]
        return self._split(at, nest, fields, factors, inner=bool(inner))

    def follow_split(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        factors = self.state.followed_factors(fields[2], fields[3])
        return self._split(at, nest, fields, factors, inner=True)

    def follow_fused_split(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        factor = self.state.fused_factor(fields[2], fields[3])
        return self._split(at, nest, fields, [factor], inner=bool(fields[4]))

    def annotate(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        loop = self._describe_loop(nest, fields[1])
        self._set("lane_multiple", np.mod(loop.extent, _LANES) == 0)
        self._tag = fields[2]
        self._set("number", self._number())
        return nest, nest

    def fuse(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        fused = self.state.fuse(fields[0], fields[1])
        self._describe_loop(nest, min(fields[1], default=0))
        self._set("reduction", fused.reduction)
        self._set("other_number", float(len(fields[1])))
        return nest, nest

    def reorder(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        self.state.reorder(fields[0], fields[1])
        self._set("extent", _product(nest.loops))
        return nest, nest

    def storage_align(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        self._describe_loop(nest, fields[1])
        self._set("number", self._number())
        self._set("other_number", self._number())
        return nest, nest

    def compute_at(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        target = self.state.nest(fields[1])
        self._describe_loop(target, fields[2])
        self._set("number", _product(nest.loops))
        return nest, target

    def compute_inline(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        self._set("extent", _product(nest.loops))
        return nest, nest

    def cache_read(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        copy = self.state.cache_read(fields[0])
        self._tag = fields[1]
        self._set("number", self._number())
        self._set("extent", _product(copy.loops))
        self._set("readers", len(fields[2]) / 4)
        return copy, nest

    def cache_write(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        copy = self.state.cache_write(fields[0])
        self._tag = fields[1]
        self._set("number", self._number())
        self._set("extent", _product(copy.loops))
        return copy, nest

    def rfactor(self, at: int, fields: tuple, nest: Nest) -> tuple[Nest, Nest]:
        self._describe_loop(nest, fields[1])
        return self.state.rfactor(fields[0], fields[1], fields[2]), nest


def _product(loops: Sequence[Loop]) -> Extents | float:
    return np.prod([np.maximum(loop.extent, 1) for loop in loops], axis=0) if loops else 1.0


_APPLY = {
    "AN": _Replay.annotate,
    "FU": _Replay.fuse,
    "PR": _Replay.annotate,
    "RE": _Replay.reorder,
    "SP": _Replay.split,
    "FSP": _Replay.follow_split,
    "FFSP": _Replay.follow_fused_split,
    "SA": _Replay.storage_align,
    "CA": _Replay.compute_at,
    "CI": _Replay.compute_inline,
    "CR": _Replay.compute_inline,
    "CHR": _Replay.cache_read,
    "CHW": _Replay.cache_write,
    "RF": _Replay.rfactor,
}

if missing := ANSOR_STEPS.keys() - _APPLY.keys():
    raise RecordError(f"step kinds without an encoding: {sorted(missing)}")
