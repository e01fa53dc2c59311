"""Schedules read as whole arrays are those that are read line by line."""

import dataclasses
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import schedules

from cwm_jax.errors import RecordError
from cwm_jax.features import log_text as step_text
from cwm_jax.features.batch import group_schedules
from cwm_jax.features.log_text import group_text
from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Record, TaskDetails

TASK = TaskDetails((2, 64, 64, 0, 0, 0, 0, 0), ("", 1, ()))
FORM = Record('["f, [[], [", 8]', "llvm", TASK, (), (0.0,), 0, 0.0, 0, "v0.6")


def text_of(batch) -> bytes:
    lines = (format_line(dataclasses.replace(FORM, steps=steps)) for steps in batch)
    return "\n".join(lines).encode()


def by_row(groups):
    return {
        int(row): (group.structure, tuple(numbers))
        for rows, group in groups
        for row, numbers in zip(rows, group.numbers, strict=True)
    }


@given(st.lists(schedules(max_size=8), min_size=1, max_size=12))
def test_groups_are_those_of_parsed_lines(batch):
    found, expected = group_text(text_of(batch)), group_schedules(batch)
    assert by_row(found) == by_row(expected)
    assert len(found) == len(expected)


def test_measured_schedules_are_grouped_without_parsing_each(measured_log, monkeypatch):
    parsed = []
    monkeypatch.setattr(
        step_text,
        "parse_line",
        lambda line, parse=step_text.parse_line: parsed.append(1) or parse(line),
    )
    records = load_records(measured_log)
    for _, members in groupby(records, key=lambda record: record.workload_key):
        batch = [record.steps for record in members]
        expected = group_schedules(batch)
        parsed.clear()
        assert by_row(group_text(text_of(batch))) == by_row(expected)
        assert len(parsed) <= 2 * len(expected)


def test_lines_of_several_tasks_are_read_too(measured_log):
    records = load_records(measured_log)[::7]
    text = "\n".join(map(format_line, records)).encode()
    assert by_row(group_text(text)) == by_row(group_schedules([r.steps for r in records]))


def test_nothing_has_no_groups():
    assert group_text(b"") == []


@pytest.mark.parametrize(
    "steps", [b'["SP", 0, 1, -4, [2], 1]', b'["XX", 0]', b'["CI", 12345678901]']
)
def test_what_is_no_schedule_is_refused(steps):
    line = text_of([()]).replace(b"[[], []]", b"[[], [" + steps + b"]]")
    with pytest.raises(RecordError):
        group_text(b"\n".join([text_of([()]), line, line]))


def test_numbers_of_any_length_are_exact():
    from cwm_jax.records.steps import Step

    batch = [(Step("SP", (0, 1, extent, (2,), 1)),) for extent in (1, 10, 999, 2**31 - 1)]
    ((rows, group),) = group_text(text_of(batch))
    np.testing.assert_array_equal(group.numbers[np.argsort(rows), 0], [1, 10, 999, 2**31 - 1])
