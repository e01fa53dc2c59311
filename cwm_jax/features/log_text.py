"""Schedules of one task, read from the text of a log as whole arrays.

A cost model is asked about thousands of candidates that differ in little but numbers. So the
text is cut at its digits all at once; lines whose rest is the same have the same fields, and only
one line of each structure is parsed.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

import numpy as np
import orjson
from jaxtyping import Float, Int, Int64

from cwm_jax.features.batch import Groups, ScheduleGroup, group_schedules, split_step
from cwm_jax.features.step_features import StepShape
from cwm_jax.records.ansor_log import MAX_INTEGER, parse_line
from cwm_jax.records.steps import Role, Step, fields_of, join_tag

_STEPS_BEGIN = b", [[], ["
_STEPS_END = b']]], "r": '
_MOST_DIGITS = 10
_NUMBER_MARK = ord("#")
_DIGITS = re.compile(r"\d+")


def group_text(text: bytes) -> Groups:
    """Groups the schedules of a log of one task, as `group_schedules` does.

    Args:
        text: Lines that TVM wrote, which differ in their steps only.

    Raises:
        RecordError: A line is no record.
    """
    if not text:
        return []
    text = text if text.endswith(b"\n") else text + b"\n"
    numbers = _find_numbers(text)
    if numbers is None:
        return group_schedules([parse_line(line).steps for line in text.splitlines()])
    found: Groups = []
    layouts: _Layouts = {}
    for lines in _alike(numbers):
        found += _group_alike(text, numbers, lines, layouts)
    return found


class _StepLayout(NamedTuple):
    """Where the numbers of a step's text belong; steps of one template share it.

    Attributes:
        structural: Those of its structure, counted from the step's first number.
        free: The others, in the order of `split_step`, -1 for one that the text does not state.
        width: Numbers of its text.
        shapes: What the step is without free numbers, by those of its structure.
    """

    structural: list[int]
    free: list[int]
    width: int
    shapes: dict[tuple[int, ...], StepShape]


_Layouts = dict[Hashable, _StepLayout]


class _Numbers(NamedTuple):
    """The numbers in the steps of all lines.

    Attributes:
        starts: Where each line starts.
        ends: Where it ends.
        first: Position of its first number in `values`.
        values: All numbers, in order.
        rest: The text of all steps, every number replaced by a mark.
        rest_ends: Where in it the steps of each line end.
    """

    starts: Int64[np.ndarray, "line"]
    ends: Int64[np.ndarray, "line"]
    first: Int64[np.ndarray, "line"]
    values: Int64[np.ndarray, "number"]
    rest: bytes
    rest_ends: Int64[np.ndarray, "line"]


def _find_numbers(text: bytes) -> _Numbers | None:
    """Cuts the steps of all lines at their numbers; None where lines differ in more than steps."""
    buffer = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(buffer == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    frame = _frame(text[: ends[0]])
    if frame is None:
        return None
    before, after = frame
    lengths = ends - starts
    if lengths.min() < len(before) + len(after):
        return None
    if not _all_have(buffer, starts, before) or not _all_have(buffer, ends - len(after), after):
        return None
    framed = np.stack(
        [
            np.full(len(ends), len(before)),
            lengths - len(before) - len(after),
            np.full(len(ends), len(after) + 1),
        ],
        axis=1,
    )
    inside = np.repeat(np.tile([False, True, False], len(ends)), framed.ravel())
    digit = inside & (buffer >= ord("0")) & (buffer <= ord("9"))
    begins = np.flatnonzero(digit & ~np.concatenate([[False], digit[:-1]]))
    stops = np.flatnonzero(digit & ~np.concatenate([digit[1:], [False]])) + 1
    digits = stops - begins
    most = int(digits.max(initial=0))
    if most > _MOST_DIGITS:
        return None
    values = np.zeros(len(begins), np.int64)
    for place in range(most):
        live = np.flatnonzero(digits > place)
        values[live] = values[live] * 10 + (buffer[begins[live] + place] - ord("0"))
    if values.max(initial=0) > MAX_INTEGER:
        return None
    marked = buffer.copy()
    marked[begins] = _NUMBER_MARK
    digit[begins] = False
    kept = inside & ~digit
    return _Numbers(
        starts,
        ends,
        np.searchsorted(begins, starts),
        values,
        marked[kept].tobytes(),
        np.cumsum(np.add.reduceat(kept, starts, dtype=np.int64)),
    )


def _frame(line: bytes) -> tuple[bytes, bytes] | None:
    """What stands before and after the steps of a line."""
    at = line.find(_STEPS_BEGIN)
    while at >= 0:
        try:
            orjson.loads(line[len(b'{"i": [') : at])
        except orjson.JSONDecodeError:
            at = line.find(_STEPS_BEGIN, at + 1)
            continue
        end = line.rfind(_STEPS_END)
        steps = at + len(_STEPS_BEGIN)
        return (line[:steps], line[end:]) if end >= steps else None
    return None


def _all_have(
    buffer: Int[np.ndarray, "byte"], places: Int64[np.ndarray, "line"], wanted: bytes
) -> bool:
    """Whether the same bytes stand at all places."""
    expected = np.frombuffer(wanted, np.uint8)
    return bool((buffer[places[:, None] + np.arange(len(wanted))] == expected).all())


def _alike(numbers: _Numbers) -> list[list[int]]:
    """Lines that differ in nothing but numbers."""
    found: dict[bytes, list[int]] = defaultdict(list)
    start = 0
    for line, end in enumerate(numbers.rest_ends.tolist()):
        found[numbers.rest[start:end]].append(line)
        start = end
    return list(found.values())


def _group_alike(text: bytes, numbers: _Numbers, lines: Sequence[int], layouts: _Layouts) -> Groups:
    """Groups lines that differ in numbers only; adds new layouts to `layouts`."""
    rows = np.array(lines, np.int32)
    example = parse_line(text[numbers.starts[rows[0]] : numbers.ends[rows[0]]]).steps
    own = [_layout_of(step, layouts) for step in example]
    starts = list(accumulate((layout.width for layout in own), initial=0))
    columns = [
        start + at for start, layout in zip(starts, own, strict=False) for at in layout.structural
    ]
    free = [
        at if at < 0 else start + at
        for start, layout in zip(starts, own, strict=False)
        for at in layout.free
    ]
    table = numbers.values[numbers.first[rows][:, None] + np.arange(starts[-1])]
    chosen = _free_numbers(table, free)
    found: Groups = []
    for stated, members in _rows_alike(table[:, columns]):
        values = iter(stated)
        structure: list[StepShape] = []
        for step, layout in zip(example, own, strict=True):
            fields = tuple(islice(values, len(layout.structural)))
            shape = layout.shapes.get(fields)
            if shape is None:
                shape = layout.shapes[fields] = split_step(_with_structure(step, fields))[0]
            structure.append(shape)
        found.append((rows[members], ScheduleGroup(tuple(structure), chosen[members])))
    return found


def _layout_of(step: Step, layouts: _Layouts) -> _StepLayout:
    template = (step.kind, *map(_without_numbers, step.fields))
    layout = layouts.get(template)
    if layout is None:
        layout = layouts[template] = _find_layout(step)
    return layout


def _without_numbers(value: int | str | tuple[int, ...] | None) -> Hashable:
    if isinstance(value, tuple):
        return len(value)
    return _DIGITS.sub("#", value) if isinstance(value, str) else type(value)


def _rows_alike(
    table: Int64[np.ndarray, "line column"],
) -> list[tuple[list[int], list[int]]]:
    """Distinct rows of a table, each with where it stands."""
    found: dict[bytes, list[int]] = defaultdict(list)
    width = table.itemsize * table.shape[1]
    data = table.tobytes()
    for line in range(len(table)):
        found[data[line * width : (line + 1) * width]].append(line)
    return [(table[lines[0]].tolist(), lines) for lines in found.values()]


def _free_numbers(
    table: Int64[np.ndarray, "line column"], free: Sequence[int]
) -> Float[np.ndarray, "line number"]:
    chosen = np.zeros((len(table), len(free)))
    for at, column in enumerate(free):
        if column >= 0:
            chosen[:, at] = table[:, column]
    return chosen


def _find_layout(step: Step) -> _StepLayout:
    structural: list[int] = []
    free: list[int] = []
    at = 0
    for (_, role), value in fields_of(step.kind, step.fields):
        columns = list(range(at, at + len(_DIGITS.findall(str(value)))))
        at += len(columns)
        if role in (Role.NUMBER, Role.NUMBERS):
            free += columns or ([-1] if role is Role.NUMBER else [])
        elif role is not Role.TAG:
            structural += columns
        elif _is_numbered(value):
            structural += columns[:-1]
            free.append(columns[-1])
        else:
            structural += columns
            free.append(-1)
    return _StepLayout(structural, free, at, {})


def _with_structure(step: Step, numbers: Sequence[int]) -> Step:
    """Returns a step with other numbers where `_find_layout` finds its structure."""
    left = iter(numbers)
    fields: list[int | str | tuple[int, ...]] = []
    for (_, role), value in fields_of(step.kind, step.fields):
        if role in (Role.NUMBER, Role.NUMBERS):
            fields.append(value)
        elif isinstance(value, tuple):
            fields.append(tuple(islice(left, len(value))))
        elif isinstance(value, int):
            fields.append(next(left))
        else:
            # What follows the "$" is a free number.
            word, mark, number = value.rpartition("$") if _is_numbered(value) else (value, "", "")
            fields.append(_DIGITS.sub(lambda _: str(next(left)), word) + mark + number)
    return Step(step.kind, tuple(fields))


def _is_numbered(value: int | str | tuple[int, ...]) -> bool:
    return join_tag(value, 0) != join_tag(value, 1)  # type: ignore[arg-type]
