"""MetaSchedule's traces: real ones against the loops that TVM made of them, and bad ones."""

import copy
import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.final_loops import final_loops

from cwm_jax.errors import RecordError
from cwm_jax.features.batch import encode_schedules
from cwm_jax.records.graph import read_graphs, shape_only_graph
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.metaschedule.database import (
    RECORDS_FILE,
    WORKLOADS_FILE,
    iterate_database,
    parse_trace_lines,
)
from cwm_jax.records.metaschedule.trace import Skeletons, parse_trace
from cwm_jax.records.metaschedule.translate import translate_trace, translate_traces
from cwm_jax.records.steps import ANNOTATIONS, Step

PARALLEL = ANNOTATIONS.index("parallel")
DATA = Path(__file__).parent / "data"
PROGRAMS = read_graphs(DATA / "traces.programs.jsonl.gz")
GOLDEN = [
    orjson.loads(line)
    for line in gzip.decompress((DATA / "traces.jsonl.gz").read_bytes()).splitlines()
]


def steps_of(golden):
    return translate_trace(parse_trace(golden["trace"]), PROGRAMS[golden["workload"]])


def test_steps_lead_to_the_loops_that_tvm_has():
    checked = 0
    for golden in GOLDEN:
        ours = final_loops(PROGRAMS[golden["workload"]], steps_of(golden))
        for block, loops in golden["loops"].items():
            expected = [tuple(loop) for loop in loops]
            # TVM also counts the loops that a block has moved under.
            assert expected[len(expected) - len(ours[block]) :] == ours[block], (block, golden)
            checked += 1
    assert checked > 100


def test_postprocessing_changes_nothing():
    for golden in GOLDEN:
        instructions, decisions = golden["trace"]
        end = [kind for kind, *_ in instructions].index("EnterPostproc")
        assert end < len(instructions) - 1
        before = {**golden, "trace": [instructions[:end], decisions]}
        assert steps_of(before) == steps_of(golden)


def test_traces_read_together_are_those_read_one_by_one():
    shared, (_, drawn) = GOLDEN[0]["trace"], GOLDEN[1]["trace"]
    together = [golden["trace"] for golden in GOLDEN] + [[shared[0], drawn], shared]
    skeletons = Skeletons()
    traces = [skeletons.parse(trace) for trace in together]
    assert traces == [parse_trace(trace) for trace in together]
    assert traces[0].instructions is traces[-1].instructions
    assert [skeletons.format(trace) for trace in traces] == together
    with pytest.raises(RecordError, match="expected \\[instructions, decisions\\]"):
        skeletons.parse([shared[0]])


def test_all_that_is_translated_can_be_encoded():
    for key, graph in PROGRAMS.items():
        schedules = [steps_of(golden) for golden in GOLDEN if golden["workload"] == key]
        arrays = encode_schedules(schedules, graph)
        assert len(set(schedules)) > 4
        assert (arrays.length > 0).all()


@st.composite
def damaged(draw):
    """A real trace in which something has been replaced, dropped or doubled."""
    golden = copy.deepcopy(draw(st.sampled_from(GOLDEN)))
    junk = st.one_of(
        st.none(),
        st.integers(-(2**40), 2**40),
        st.text(max_size=4),
        st.sampled_from(["b0", "l5", "v7", "b999", []]),
        st.lists(st.integers(-3, 3), max_size=3),
    )
    part = golden["trace"][draw(st.integers(0, 1))]
    for _ in range(draw(st.integers(1, 3))):
        where = part
        while isinstance(where, list) and where:
            at = draw(st.integers(0, len(where) - 1))
            if not isinstance(where[at], list) or draw(st.integers(0, 3)) == 0:
                action = draw(st.sampled_from(["replace", "drop", "double"]))
                if action == "replace":
                    where[at] = draw(junk)
                elif action == "drop":
                    del where[at]
                else:
                    where.insert(at, copy.deepcopy(where[at]))
                break
            where = where[at]
    return golden


def line_of(trace, compact=True):
    data = [0, [trace, [1.0], {"kind": "llvm", "mattr": ["+avx2", 'a "word" ]]']}, []]]
    return orjson.dumps(data) if compact else json.dumps(data).encode()


@given(st.lists(st.one_of(st.sampled_from(GOLDEN), damaged()), max_size=8), st.booleans())
def test_lines_read_together_are_those_read_one_by_one(found, compact):
    """Most lines differ from one before in decisions only, and no more is parsed of them."""
    first = GOLDEN[0]["trace"]
    traces = [first, *(golden["trace"] for golden in found), [first[0], GOLDEN[1]["trace"][1]]]
    good = []
    for trace in traces:
        try:
            good.append((trace, parse_trace(trace)))
        except RecordError:
            with pytest.raises(RecordError):
                parse_trace_lines([line_of(first, compact), line_of(trace, compact)], Skeletons())
    lines = [line_of(trace, compact) for trace, _ in good]
    together = parse_trace_lines(lines, Skeletons())
    assert together == [expected for _, expected in good]
    assert together[0].instructions is together[-1].instructions


@pytest.mark.parametrize("behind", [b"", b"]", b", 3]", b", [[1, 2]]"])
def test_a_line_that_is_cut_or_goes_on_is_refused_beside_a_good_one(behind):
    line = line_of(GOLDEN[0]["trace"], compact=False)
    for bad in (line[:-1] + behind, line + behind):
        if bad != line:
            with pytest.raises(RecordError):
                parse_trace_lines([line, bad], Skeletons())


@given(damaged())
def test_a_damaged_trace_is_translated_or_refused(golden):
    try:
        schedule = steps_of(golden)
    except RecordError:
        return
    assert np.isfinite(encode_schedules([schedule], PROGRAMS[golden["workload"]]).values).all()


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (["Conjure", ["b0"], [], []], r"instruction 1 \(Conjure\): .*does not know"),
        (["GetLoops", ["b7"], [], ["l1"]], r"instruction 1 \(GetLoops\): variable 'b7' is not set"),
        (["Parallel", ["b0"], [], []], r"instruction 1 \(Parallel\): 'b0' is no loop"),
        (["GetSBlock", [], ["D", "main"], ["b1"]], r"block 'D' is not in the program, which has"),
        (["SamplePerfectTile", ["b0"], [2, 64], ["v1"]], r"\(SamplePerfectTile\): has no decision"),
        ("GetLoops", r"instruction 1: expected \[kind, inputs, attributes, outputs\]"),
    ],
)
def test_a_bad_instruction_is_named(instruction, message):
    first = GOLDEN[0]["trace"][0][0]
    with pytest.raises(RecordError, match=message):
        steps_of({**GOLDEN[0], "trace": [[first, instruction], []]})


def loops_of(block, count):
    """Finds a block of the first golden program, and some loops of it."""
    return [
        ["GetSBlock", [], [block, "main"], ["b0"]],
        ["GetLoops", ["b0"], [], [f"l{at}" for at in range(count)]],
    ]


def refused(instructions, message):
    with pytest.raises(RecordError, match=message):
        steps_of({**GOLDEN[0], "trace": [instructions, []]})


def test_what_would_fill_the_memory_is_refused():
    block, depth = first_block()
    begin = loops_of(block, depth)
    squared = [["Fuse", ["l0", "l0"], [1], ["l0"]]] * 40
    refused(begin + squared, r"\(Fuse\): fuses a loop with itself")
    refused([*begin, ["Split", ["l0", 2**31], [1, 0], ["m0"]]], r"\(Split\): extent \d+, expected")
    many = [["Split", ["l0", *[2] * 400], [1, 0], [f"m{at}" for at in range(400)]]]
    refused(begin + many, r"\(Split\): 400 factors, expected at most 256 loops")
    refused(loops_of(block, 400), r"\(GetLoops\): 400 loops around a block")


def test_traces_go_on_from_the_steps_that_a_program_begins_with():
    graph = PROGRAMS[GOLDEN[0]["workload"]]
    block, depth = first_block()
    stage = next(at for at, found in enumerate(graph.stages) if found.name == block)
    begun = Step("FU", (stage, tuple(range(depth))))
    instructions = [*loops_of(block, 1), ["Parallel", ["l0"], [], []]]
    trace = parse_trace([instructions, []])
    fused = dataclasses.replace(graph, initial_steps=(begun,))
    assert translate_trace(trace, fused) == (begun, Step("AN", (stage, 0, PARALLEL)))
    for wrong in (Step("FU", (stage, (0, 99))), Step("RE", (99, (0,))), Step("CI", (stage,))):
        with pytest.raises(RecordError, match="initial step"):
            translate_trace(trace, dataclasses.replace(graph, initial_steps=(wrong,)))


def test_what_cannot_be_followed_is_left_open_where_none_may_be_refused():
    graph = PROGRAMS[GOLDEN[0]["workload"]]
    block, depth = first_block()
    instructions = [
        ["GetSBlock", [], ["unheard", "main"], ["b9"]],
        ["GetLoops", ["b9"], [], ["l8", "l9"]],
        ["SamplePerfectTile", ["l8"], [2, 64], ["v1", "v2"]],
        ["Split", ["l8", "v1", "v2"], [1, 0], ["l10", "l11"]],
        ["Conjure", ["b9"], [], ["b10", "l12", "v3"]],
        ["Parallel", ["l12"], [], []],
        *loops_of(block, depth),
        ["Unroll", ["l0"], [], []],
    ]
    traces = [parse_trace([instructions, [[2, drawn]]]) for drawn in ([2, 4], [4, 2])]
    reasons: list[RecordError] = []
    first, second = translate_traces(traces, graph, reasons.append)
    assert [str(reason)[:26] for reason in reasons] == ["instruction 0 (GetSBlock):"] * 2
    assert first != second
    assert np.isfinite(encode_schedules([first, second], graph).values).all()
    with pytest.raises(RecordError, match="'unheard' is not in the program"):
        list(translate_traces(traces, graph))
    alone = shape_only_graph("key")
    told = list(translate_traces([parse_trace(g["trace"]) for g in GOLDEN], alone, reasons.append))
    assert np.isfinite(encode_schedules(told, alone).values).all()
    assert len(set(told)) > 0.9 * len(GOLDEN)  # without blocks and loops, annotations are lost


def test_a_block_cannot_move_under_its_own_loop():
    block, depth = first_block()
    move = [["ComputeAt", ["b0", "l0"], [1, -1], []]]
    refused(loops_of(block, depth) + move, r"\(ComputeAt\): .* under a loop inside itself")


def first_block():
    graph = PROGRAMS[GOLDEN[0]["workload"]]
    stage = next(stage for stage in graph.stages if len(stage.axes) > 1)
    return stage.name, len(stage.axes)


def test_no_workload_of_a_database_is_skipped(tmp_path):
    (tmp_path / WORKLOADS_FILE).write_bytes(b'["key", "module"]\n["key"]\n["other", "module"]\n')
    (tmp_path / RECORDS_FILE).write_bytes(b"")
    with pytest.raises(RecordError, match=r"2: expected \[hash, module\]"):
        list(iterate_database(tmp_path, PROGRAMS, LogSummary()))


def test_a_database_is_read_and_its_bad_lines_are_counted(tmp_path):
    golden = GOLDEN[0]
    key, trace = golden["workload"], golden["trace"]
    target = {"kind": "llvm"}
    lines = [
        orjson.dumps([0, [trace, [0.5, 1.5], target, []]]),
        orjson.dumps([0, [trace, [1e10], target, []]]),
        b"no JSON",
        orjson.dumps([3, [trace, [1.0], target, []]]),
        orjson.dumps([1, [trace, [1.0], None, None]]),
        orjson.dumps([0, [trace, ["fast"], target, []]]),
        orjson.dumps([0, [trace, None, target, []]]),
    ]
    (tmp_path / WORKLOADS_FILE).write_bytes(
        orjson.dumps([key, "module"]) + b"\n" + orjson.dumps(["other", "module"]) + b"\n"
    )
    (tmp_path / RECORDS_FILE).write_bytes(b"\n".join(lines) + b"\n")
    summary = LogSummary()
    good, failed, other, unmeasured = iterate_database(tmp_path, PROGRAMS, summary)
    assert good.valid
    assert good.latency == 1.0
    assert good.steps == steps_of(golden)
    assert not failed.valid
    assert not unmeasured.valid
    # What the trace says alone, of a workload without a program.
    assert other.steps
    assert other.steps != good.steps
    assert (other.workload_key, other.target, other.latency) == ("other", "", 1.0)
    assert summary.skipped == 3
    expected = ("3: not JSON", "4: workload 3", '6: field "seconds"')
    for problem, text in zip(summary.problems, expected, strict=True):
        assert f"{RECORDS_FILE}:{text}" in problem
