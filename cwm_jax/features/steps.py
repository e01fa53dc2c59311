"""Schedules -> padded arrays for the step encoder.

Schedules are grouped by structure (everything but extents and factors); the bookkeeping of a
group runs once, its numbers as arrays over the group's candidates.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32

from cwm_jax.features.buckets import SLOT_BUCKETS, STEP_BUCKETS, bucket
from cwm_jax.features.replay import SIZES, STEP_WIDTH, Replay, StepShape
from cwm_jax.records.program import Program
from cwm_jax.records.steps import ANSOR_STEPS, Role, Step, split_tag


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


_Numbers = tuple[int, ...]
_LARGEST = 1e30


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
        numbers_of_group = np.array(rows_of_numbers, np.float64).reshape(len(rows), -1)
        # Absurd extents overflow; they are brought back to a finite size below.
        with np.errstate(over="ignore", invalid="ignore"):
            replay = Replay(program, numbers_of_group)
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
    np.nan_to_num(values, copy=False, posinf=_LARGEST)
    sizes = slice(0, len(SIZES))
    values[:, :, sizes] = np.log2(1 + values[:, :, sizes]) / 8
    return StepArrays(kind, tag, stage, other, values, length, bucket(slots, SLOT_BUCKETS))
