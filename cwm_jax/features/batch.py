"""Schedules -> padded arrays for the step encoder.

Schedules are grouped by structure (everything but extents and factors); the bookkeeping of a
group runs once, its numbers as arrays over the group's candidates.
"""

import dataclasses
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32

from cwm_jax.features.columns import SIZES, describe_data
from cwm_jax.features.step_features import Replay, StepFeatures, StepShape
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.steps import Role, Step, fields_of, split_tag


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pauses the cyclic garbage collector, for work that makes no cycles.

    Beside the live objects of a search, those of TVM and JAX, the collections that thousands of
    short-lived objects set off take a fifth of the time of ranking them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


STEP_BUCKETS = (16, 24, 32, 40, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096)
SLOT_BUCKETS = (8, 16, 32, 64, 128)


def bucket(size: int, buckets: tuple[int, ...]) -> int:
    """Returns the smallest bucket that holds `size`.

    Raises:
        ValueError: No bucket is large enough.
    """
    for candidate in buckets:
        if size <= candidate:
            return candidate
    raise ValueError(f"{size} exceeds the largest padded size, {buckets[-1]}")


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
    for field, value in fields_of(step.kind, step.fields):
        match field.role:
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


def cut_groups(groups: Groups, size: int) -> Iterator[tuple[Int32[np.ndarray, "row"], Groups]]:
    """Cuts groups into batches; schedules that begin alike stay together.

    Args:
        groups: Groups of schedules.
        size: Most schedules of a batch.

    Yields:
        The rows of a batch among all, and its groups, whose rows are those in the batch.
    """
    batch: Groups = []
    taken: list[Int32[np.ndarray, "row"]] = []
    filled = 0
    for at in _side_by_side([group for _, group in groups]):
        rows, group = groups[at]
        start = 0
        while start < len(rows):
            stop = min(start + size - filled, len(rows))
            count = stop - start
            places = np.arange(filled, filled + count, dtype=np.int32)
            batch.append((places, group._replace(numbers=group.numbers[start:stop])))
            taken.append(rows[start:stop])
            filled += count
            start = stop
            if filled == size:
                yield np.concatenate(taken), batch
                batch, taken, filled = [], [], 0
    if batch:
        yield np.concatenate(taken), batch


def encode_schedules(schedules: Sequence[tuple[Step, ...]], graph: ComputeGraph) -> StepArrays:
    """Encodes schedules of one program.

    Args:
        schedules: Step sequences, any lengths.
        graph: Compute graph that they schedule.

    Returns:
        Arrays in the order of `schedules`, padded to the bucket of the longest.

    Raises:
        RecordError: A schedule addresses a stage or loop that no program can have.
    """
    return encode_groups(group_schedules(schedules), graph)


def encode_groups(groups: Groups, graph: ComputeGraph) -> StepArrays:
    """Encodes groups of schedules of one program.

    Args:
        groups: Each with the rows that it takes in the result; the rows of all groups together
            are 0, 1, ... without gaps.
        graph: Compute graph that they schedule.

    Raises:
        RecordError: A schedule addresses a stage or loop that no program can have.
    """
    ordered = _side_by_side([group for _, group in groups])
    members = [groups[at] for at in ordered]
    rows = np.concatenate([np.zeros(0, np.int32), *(rows for rows, _ in members)])
    structures = [group.structure for _, group in members]
    longest = max(map(len, structures), default=0)
    features = StepFeatures.empty(len(rows), bucket(max(longest, 1), STEP_BUCKETS))
    sizes = [len(rows) for rows, _ in members]
    # Absurd extents overflow; they are brought back to a finite size below.
    with np.errstate(over="ignore", invalid="ignore"):
        whole = Replay(graph, _numbers_together([group for _, group in members]), features)
        replays = _replay_together(whole, structures, sizes)
        stages = [stage for replay in replays for stage in replay.finish()]
        describe_data(stages, features.values)
    if not np.isfinite(features.values.sum()):
        np.nan_to_num(features.values, copy=False, posinf=_LARGEST)
    extents = features.values[:, :, : len(SIZES)]
    extents[:] = np.log2(1 + extents) / 8
    slots = max([1, len(graph.stages), *(replay.state.slots for replay in replays)])
    length = np.repeat(np.array([*map(len, structures)], np.int32), sizes)
    found = StepArrays(*features, length, bucket(slots, SLOT_BUCKETS))
    in_order = (rows == np.arange(len(rows))).all()
    return found if in_order else found.take(np.argsort(rows))


def _side_by_side(groups: Sequence[ScheduleGroup]) -> list[int]:
    """Orders groups so that those which begin alike stand together, shorter ones first."""
    root: _Branch = _Branch()
    for at, group in enumerate(groups):
        branch = root
        for shape in group.structure:
            following = branch.next.get(shape)
            if following is None:
                following = branch.next[shape] = _Branch()
            branch = following
        branch.ends.append(at)
    ordered: list[int] = []
    todo = [root]
    while todo:
        branch = todo.pop()
        ordered += branch.ends
        todo += branch.next.values()
    return ordered


class _Branch:
    """Structures that begin alike: those that end here, and how the others go on."""

    __slots__ = ("ends", "next")

    def __init__(self) -> None:
        self.ends: list[int] = []
        self.next: dict[StepShape, _Branch] = {}


def _numbers_together(groups: Sequence[ScheduleGroup]) -> Float[np.ndarray, "candidate number"]:
    """Stacks the numbers of groups, zeros behind those of shorter ones."""
    width = max((group.numbers.shape[1] for group in groups), default=0)
    # A step reads a column.
    found = np.zeros((sum(len(group.numbers) for group in groups), width), order="F")
    start = 0
    for group in groups:
        stop = start + len(group.numbers)
        found[start:stop, : group.numbers.shape[1]] = group.numbers
        start = stop
    return found


def _replay_together(
    whole: Replay, structures: Sequence[tuple[StepShape, ...]], sizes: Sequence[int]
) -> list[Replay]:
    """Replays schedules; what several structures begin with is replayed once.

    Args:
        whole: Features of all candidates, before the first step.
        structures: Structures in the order of `_side_by_side`.
        sizes: Candidates of each.

    Returns:
        The replays at the end of each structure.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    done: list[Replay] = []
    todo = [(whole, 0, len(structures), 0)] if structures else []
    while todo:
        replay, low, high, at = todo.pop()
        first, last = structures[low], structures[high - 1]
        while at < len(first) and at < len(last) and first[at] == last[at]:
            replay.apply(at, first[at])
            at += 1
        if at == len(first) == len(last):
            done.append(replay)
            continue
        for _, alike in groupby(range(low, high), lambda n, at=at: structures[n][at : at + 1]):
            members = list(alike)
            begin, end = members[0], members[-1] + 1
            some = slice(starts[begin] - starts[low], starts[end] - starts[low])
            todo.append((replay.part(some), begin, end, at))
    return done
