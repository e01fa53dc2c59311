"""The process that reads traces says what reading them here says, or leaves it to be done here."""

import gzip
from pathlib import Path

import numpy as np
import orjson
import pytest
from support.trace_process import answering

from cwm_jax.errors import RecordError
from cwm_jax.features.batch import encode_groups, encode_schedules
from cwm_jax.features.trace_helper import TraceHelper, group_trace_lines
from cwm_jax.records.graph import read_graphs
from cwm_jax.records.metaschedule.trace import parse_trace
from cwm_jax.records.metaschedule.translate import translate_trace

DATA = Path(__file__).parent / "data"
GOLDEN = [
    orjson.loads(line)
    for line in gzip.decompress((DATA / "traces.jsonl.gz").read_bytes()).splitlines()
]
WORKLOAD = GOLDEN[0]["workload"]
PROGRAM = read_graphs(DATA / "traces.programs.jsonl.gz")[WORKLOAD]
TRACES = [golden["trace"] for golden in GOLDEN if golden["workload"] == WORKLOAD]
LINES = [orjson.dumps([0, [trace, [1.0], None, []]]) for trace in TRACES]


@pytest.fixture
def helper():
    helper = TraceHelper()
    yield helper
    helper.close()


def equal(groups, others):
    assert len(groups) == len(others)
    for (rows, group), (other_rows, other) in zip(groups, others, strict=True):
        np.testing.assert_array_equal(rows, other_rows)
        assert group.structure == other.structure
        np.testing.assert_array_equal(group.numbers, other.numbers)


def test_lines_are_grouped_as_their_schedules_are():
    schedules = [translate_trace(parse_trace(trace), PROGRAM) for trace in TRACES]
    found = encode_groups(group_trace_lines(LINES, PROGRAM), PROGRAM)
    expected = encode_schedules(schedules, PROGRAM)
    assert found.values.shape[0] > 4
    for name in ("kind", "tag", "stage", "other", "values", "length"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_both_processes_say_the_same(helper):
    here = group_trace_lines(LINES, PROGRAM)
    equal(helper.begin(LINES, PROGRAM)(), here)  # before it is ready
    process = answering(helper)
    for lines in (LINES, LINES[:1], [], LINES[::-1]):
        equal(helper.begin(lines, PROGRAM)(), group_trace_lines(lines, PROGRAM))
    assert helper._idle_process() is process


def test_a_wrong_line_is_told_where_it_was_asked(helper):
    answering(helper)
    answer = helper.begin([*LINES, b"[0]"], PROGRAM)
    with pytest.raises(RecordError, match="expected \\[workload"):
        answer()
    equal(helper.begin(LINES, PROGRAM)(), group_trace_lines(LINES, PROGRAM))


@pytest.mark.parametrize("asked", [False, True])
def test_a_process_that_ends_leaves_the_work_to_be_done_here(asked, helper):
    process = answering(helper)
    answer = helper.begin(LINES * 50, PROGRAM) if asked else None
    process.kill()
    process.wait()
    answer = answer or helper.begin(LINES * 50, PROGRAM)
    equal(answer(), group_trace_lines(LINES * 50, PROGRAM))


def test_an_answer_that_nobody_waits_for_is_not_taken_for_the_next(helper):
    first = answering(helper)
    helper.begin(LINES, PROGRAM)
    equal(helper.begin(LINES[:2], PROGRAM)(), group_trace_lines(LINES[:2], PROGRAM))
    assert first.poll() is not None
    assert answering(helper) is not first
    equal(helper.begin(LINES[:3], PROGRAM)(), group_trace_lines(LINES[:3], PROGRAM))


def test_the_process_ends_with_its_owner(helper):
    process = answering(helper)
    helper.close()
    assert process.poll() is not None
