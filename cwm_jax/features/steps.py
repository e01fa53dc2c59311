"""Schedules -> padded arrays for the step encoder.

Schedules are grouped by structure (everything but extents and factors); the bookkeeping of a
group runs once, its numbers as arrays over the group's candidates.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32

from cwm_jax.features.buckets import SLOT_BUCKETS, STEP_BUCKETS, bucket
from cwm_jax.features.replay import SIZES, STEP_WIDTH, Replay, StepShape, describe_data
from cwm_jax.records.program import Program
from cwm_jax.records.steps import STEPS, Role, Step, split_tag


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
    for (_, role), value in zip(STEPS[step.kind], step.fields, strict=True):
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


class ScheduleGroup(NamedTuple):
    """Schedules that differ in numbers only.

    Attributes:
        structure: Their steps without numbers.
        numbers: Extents, factors and the like of each, in the order of the steps' fields.
    """

    structure: tuple[StepShape, ...]
    numbers: Float[np.ndarray, "candidate number"]


Groups = list[tuple[Int32[np.ndarray, "row"], ScheduleGroup]]
"""Groups of schedules, each with the rows that its members have among all."""


def group_schedules(schedules: Sequence[tuple[Step, ...]]) -> Groups:
    """Groups schedules by structure; each group comes with its rows in `schedules`."""
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
    return [
        (
            np.array(rows, np.int32),
            ScheduleGroup(structure, np.array(numbers, np.float64).reshape(len(rows), -1)),
        )
        for structure, (rows, numbers) in groups.items()
    ]


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
    return encode_groups(group_schedules(schedules), program)


def encode_groups(groups: Groups, program: Program) -> StepArrays:
    """Encodes groups of schedules of one program.

    Args:
        groups: Each with the rows that it takes in the result; the rows of all groups together
            are 0, 1, ... without gaps.
        program: The program they schedule.

    Raises:
        RecordError: A schedule addresses a stage or loop that no program can have.
    """
    count = sum(len(rows) for rows, _ in groups)
    longest = max((len(group.structure) for _, group in groups), default=0)
    size = (count, bucket(max(longest, 1), STEP_BUCKETS))
    kind, tag, stage, other = (np.zeros(size, np.int32) for _ in range(4))
    values = np.zeros((*size, STEP_WIDTH), np.float32)
    length = np.zeros(count, np.int32)
    slots = max(len(program.stages), 1)
    # Absurd extents overflow; they are brought back to a finite size below.
    with np.errstate(over="ignore", invalid="ignore"):
        replays = [_replay(program, group) for _, group in groups]
        describe_data([stage for replay in replays for stage in replay.finish()])
    for (rows, (structure, _)), replay in zip(groups, replays, strict=True):
        steps = len(structure)
        kind[rows, :steps] = replay.kind
        tag[rows, :steps] = replay.tag
        stage[rows, :steps] = replay.stage
        other[rows, :steps] = replay.other
        if steps:
            values[rows, :steps] = np.stack(replay.values, axis=1)
        length[rows] = steps
        slots = max(slots, replay.state.slots)
    np.nan_to_num(values, copy=False, posinf=_LARGEST)
    sizes = slice(0, len(SIZES))
    values[:, :, sizes] = np.log2(1 + values[:, :, sizes]) / 8
    return StepArrays(kind, tag, stage, other, values, length, bucket(slots, SLOT_BUCKETS))


def _replay(program: Program, group: ScheduleGroup) -> Replay:
    replay = Replay(program, group.numbers)
    for at, shape in enumerate(group.structure):
        replay.apply(at, shape)
    return replay
