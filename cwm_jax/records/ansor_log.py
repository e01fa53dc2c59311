"""Logs: JSON lines of `tvm.auto_scheduler`, plain or gzip'd.

The format is that of `src/auto_scheduler/measure_record.cc` in TVM:
`{"i": [[workload_key, target, hardware_params, target_host, layout_rewrite, input_names],
[[], steps]], "r": [costs, error_no, all_cost, timestamp], "v": "v0.6"}`. Records of other engines
are written in the same form, with their own version and the steps of `STEPS`.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.errors import RecordError
from cwm_jax.files import append_lines
from cwm_jax.records.record import Record, TaskDetails
from cwm_jax.records.steps import ANSOR_STEPS, LIST_ROLES, STEPS, Field, Role, Step, fields_of

MAX_STEPS = 4096
MAX_INTEGER = 2**31 - 1
TRANSLATED = "metaschedule-1"
"""Version of records whose steps were translated from a MetaSchedule trace."""
SUPPORTED_VERSIONS = ("v0.2", "v0.3", "v0.4", "v0.5", "v0.6", TRANSLATED)

_Kinds = dict[str, tuple[Field, ...]]


def parse_line(line: bytes | str) -> Record:
    """Reads one line of a log.

    Raises:
        RecordError: The line is no record; the message names the field and what was expected.
    """
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"not JSON ({error})") from error
    if not isinstance(data, dict) or not {"i", "r", "v"} <= data.keys():
        raise RecordError('expected an object with the fields "i", "r" and "v"')
    version = data["v"]
    if version not in SUPPORTED_VERSIONS:
        raise RecordError(f'field "v": found {version!r}, expected one of {SUPPORTED_VERSIONS}')
    known = STEPS if version == TRANSLATED else ANSOR_STEPS
    workload_key, target, task, steps = _parse_input(data["i"], known)
    costs, error_code, seconds, timestamp = _parse_result(data["r"])
    return Record(workload_key, target, task, steps, costs, error_code, seconds, timestamp, version)


def _parse_input(data: Any, known: _Kinds) -> tuple[str, str, TaskDetails, tuple[Step, ...]]:
    match data:
        case [[str(workload_key), str(target), *details], [_, list(steps), *_]]:
            pass
        case _:
            raise RecordError('field "i": expected [[workload_key, target, ...], [[], steps]]')
    if len(steps) > MAX_STEPS:
        raise RecordError(f'field "i": {len(steps)} steps, expected at most {MAX_STEPS}')
    parsed = tuple(parse_step(step, position, known) for position, step in enumerate(steps))
    return workload_key, target, _parse_details(details), parsed


def _parse_details(details: list[Any]) -> TaskDetails:
    hardware: tuple[int, ...] | None = None
    if details:
        if not isinstance(details[0], list) or not all(type(x) is int for x in details[0]):
            raise RecordError('field "i": hardware parameters are not a list of integers')
        hardware = tuple(details[0])
    rest: list[str | int | tuple[str, ...]] = []
    for value in details[1:]:
        match value:
            case str() | int():
                rest.append(value)
            case list() if all(isinstance(name, str) for name in value):
                rest.append(tuple(value))
            case _:
                raise RecordError(f'field "i": unexpected task field {value!r}')
    return TaskDetails(hardware, tuple(rest))


def parse_step(data: Any, position: int, known: _Kinds) -> Step:
    """Reads a step from its JSON form, `[kind, field, ...]`.

    Args:
        data: The form.
        position: Position of the step, for errors.
        known: Fields of each kind that there may be.

    Raises:
        RecordError: It is none; the message names the step, the field, what was found and what was
            expected.
    """
    kind = data[0] if isinstance(data, list) and data else None
    if not isinstance(kind, str) or kind not in known:
        raise RecordError(f"step {position}: unknown kind {str(kind)[:40]!r}")
    values, expected = data[1:], len(known[kind])
    if len(values) != expected:
        raise RecordError(f"step {position} ({kind}): {len(values)} fields, expected {expected}")
    fields: list[Any] = []
    for (name, role), value in fields_of(kind, values):
        if role in LIST_ROLES:
            if not isinstance(value, list) or not all(_is_index(entry) for entry in value):
                raise RecordError(
                    f"step {position} ({kind}), field {name!r}: found {str(value)[:40]}, "
                    "expected a list of non-negative integers"
                )
            fields.append(tuple(value))
        elif _is_index(value) or _is_other_scalar(kind, role, value):
            fields.append(value)
        else:
            raise RecordError(
                f"step {position} ({kind}), field {name!r}: found {str(value)[:40]}, "
                "expected a non-negative integer"
            )
    return Step(kind, tuple(fields))


def _is_other_scalar(kind: str, role: Role, value: Any) -> bool:
    """Words as tags (annotations are numbered), and splits that state no extent."""
    named = role is Role.TAG and kind != "AN" and isinstance(value, str)
    return named or (role is Role.NUMBER and value is None)


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def _parse_result(data: Any) -> tuple[tuple[float, ...], int, float, int]:
    match data:
        case [list(costs), int(error_code), int(seconds) | float(seconds), int(timestamp)]:
            pass
        case _:
            raise RecordError('field "r": expected [costs, error_no, all_cost, timestamp]')
    if not all(type(cost) in (int, float) for cost in costs):
        raise RecordError('field "r": costs are not numbers')
    return tuple(costs), error_code, seconds, timestamp


def format_line(record: Record) -> str:
    """Writes a record as TVM does; the inverse of `parse_line`, without a newline."""
    task: list[Any] = [record.workload_key, record.target]
    if record.task.hardware_parameters is not None:
        task += [record.task.hardware_parameters, *record.task.rest]
    steps = [[step.kind, *step.fields] for step in record.steps]
    inputs = json.dumps([task, [[], steps]], ensure_ascii=False)
    costs = ", ".join(_format_number(cost) for cost in record.costs)
    result = (
        f"[[{costs}], {record.error_code}, {_format_number(record.measure_seconds)}, "
        f"{record.timestamp}]"
    )
    return f'{{"i": {inputs}, "r": {result}, "v": "{record.version}"}}'


def _format_number(value: float) -> str:
    """Formats as C++ streams do by default (six digits), in full where that loses digits."""
    if not math.isfinite(value):
        raise RecordError(f"{value} cannot be written as JSON")
    short = f"{value:.6g}"
    return short if float(short) == value else repr(value)


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Appends records to a plain log, on a new line where its last one is not ended."""
    append_lines(path, (format_line(record).encode() for record in records))


def __getattr__(name: str) -> object:
    from cwm_jax.deprecated_names import moved_name

    return moved_name(__name__, name)
