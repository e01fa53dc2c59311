"""Ansor's log format: golden lines, round trips, and everything that can be wrong."""

import contextlib
import gzip
import math
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import records

from cwm_jax import load_records
from cwm_jax.errors import RecordError
from cwm_jax.records.ansor_log import append_records, format_line, parse_line
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import iterate_records
from cwm_jax.records.steps import ANSOR_STEPS, Step

ALL_KINDS = (
    '{"i": [["[\\"f\\", 8, 8]", "llvm -num-cores=2", [2, 64, 64, 0, 0, 0, 0, 0], "", 1, []], '
    '[[], [["CHW", 2, "local"], ["SP", 2, 0, 8, [1, 2, 4], 1], ["FSP", 3, 0, 1, 2], '
    '["RE", 2, [0, 2, 1, 3]], ["CA", 2, 3, 1], ["FFSP", 3, 0, [1, 2], 1, 1], '
    '["FU", 3, [0, 1]], ["AN", 3, 0, 3], ["PR", 2, 0, "auto_unroll_max_step$64"], '
    '["SA", 2, 1, 32, 8], ["CI", 1], ["CR", 0], ["CHR", 0, "shared", [2]], '
    '["RF", 2, 1, 0]]]], "r": [[0.000479569, 1.2e-05], 0, 8.44257, 1795424043], "v": "v0.6"}'
)
FAILED = ALL_KINDS.replace("[0.000479569, 1.2e-05], 0", "[1e+10], 4")


def test_golden_line_parses():
    record = parse_line(ALL_KINDS)
    assert {step.kind for step in record.steps} == set(ANSOR_STEPS)
    assert record.steps[1] == Step("SP", (2, 0, 8, (1, 2, 4), 1))
    assert record.steps[8] == Step("PR", (2, 0, "auto_unroll_max_step$64"))
    assert record.workload_key == '["f", 8, 8]'
    assert record.target == "llvm -num-cores=2"
    assert record.task.hardware_parameters == (2, 64, 64, 0, 0, 0, 0, 0)
    assert record.latency == pytest.approx((0.000479569 + 1.2e-05) / 2)
    assert record.valid


@pytest.mark.parametrize("line", [ALL_KINDS, FAILED])
def test_golden_line_is_written_back_byte_for_byte(line):
    assert format_line(parse_line(line)) == line


def test_failed_measurement_is_kept_and_marked():
    record = parse_line(FAILED)
    assert not record.valid
    assert record.error_code == 4
    assert record.latency == math.inf


@pytest.mark.parametrize("cost", ["1e-12", "3e6", "0", "-1.5", "1e999"])
def test_absurd_cost_is_not_valid(cost):
    line = ALL_KINDS.replace("0.000479569", cost)
    with contextlib.suppress(RecordError):  # a reader may refuse a number that overflows
        assert not parse_line(line).valid


@given(records())
def test_round_trip(record):
    assert parse_line(format_line(record)) == record


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"v": "v0.6"', '"v": "v9"', 'field "v"'),
        ('["CI", 1]', '["PPT"]', "unknown kind 'PPT'"),
        ('["CI", 1]', '["CI", 1, 2]', "2 fields, expected 1"),
        ('["CI", 1]', '["CI", -1]', "'stage'"),
        ('["CI", 1]', '["CI", true]', "'stage'"),
        ('["CI", 1]', '["CI", 99999999999]', "'stage'"),
        ("[1, 2, 4], 1]", '[1, "2", 4], 1]', "'factors'"),
        ('"auto_unroll_max_step$64"', "[]", "'pragma'"),
        ('"r": [[', '"r": [["x", ', "costs are not numbers"),
        ('"r": [', '"r": [0, ', 'field "r"'),
        ('{"i"', '{"j"', "expected an object"),
        ('{"i"', '["i"', "not JSON"),
    ],
)
def test_error_names_the_field(old, new, says):
    with pytest.raises(RecordError, match=says.replace("[", r"\[")):
        parse_line(ALL_KINDS.replace(old, new))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_record_or_a_record_error(line):
    with pytest.raises(RecordError):
        parse_line(line)


@given(st.integers(0, len(ALL_KINDS) - 2))
def test_truncated_line_is_an_error(length):
    with pytest.raises(RecordError):
        parse_line(ALL_KINDS[:length])


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_bad_lines_are_skipped_counted_and_named(tmp_path, ending):
    log = tmp_path / f"log.{ending}"
    text = "\n".join([ALL_KINDS, "garbage", FAILED, ALL_KINDS[:80], ""]).encode()
    log.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    summary = LogSummary()
    found = list(iterate_records(log, summary))
    assert [record.valid for record in found] == [True, False]
    assert (summary.records, summary.valid, summary.skipped) == (2, 1, 2)
    assert summary.problems[0].startswith(f"{log}:2: not JSON")
    assert f"{log}:4" in str(summary)


def test_skipped_lines_warn_without_a_summary(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(f"{ALL_KINDS}\ngarbage\n")
    with pytest.warns(UserWarning, match="1 lines skipped"):
        assert len(load_records(log)) == 1


def test_truncated_gzip_keeps_what_can_be_read(tmp_path):
    log = tmp_path / "log.jsonl.gz"
    lines = "".join(ALL_KINDS.replace("8.44257", str(n)) + "\n" for n in range(2000))
    content = gzip.compress(lines.encode())
    log.write_bytes(content[: len(content) // 2])
    summary = LogSummary()
    assert 0 < len(list(iterate_records(log, summary))) < 2000
    assert "the rest cannot be read" in str(summary)


def test_damaged_gzip_keeps_what_can_be_read(tmp_path):
    log = tmp_path / "log.jsonl.gz"
    lines = "".join(ALL_KINDS.replace("8.44257", str(n)) + "\n" for n in range(2000))
    content = bytearray(gzip.compress(lines.encode()))
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    log.write_bytes(content)
    summary = LogSummary()
    assert 0 < len(list(iterate_records(log, summary))) < 2000
    assert "the rest cannot be read" in str(summary)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (bytes(range(256)) * 50, "first problem"),
        (b"\x1f\x8b garbage", "cannot be read"),
        (b"x" * (9 * 2**20), "longer than"),
        (ALL_KINDS.encode("utf-16"), "UTF-16"),
        (ALL_KINDS.encode("utf-16-le"), "UTF-16"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "zstd -d"),
        (b"\xfd7zXZ\x00" + bytes(40), "unxz"),
        (b"PK\x03\x04" + bytes(40), "ZIP archive"),
    ],
)
def test_unusable_log_is_an_error(tmp_path, content, says):
    log = tmp_path / "log.jsonl"
    log.write_bytes(content)
    with pytest.raises(RecordError, match=says):
        load_records(log)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_what_editors_add_to_a_log_loses_no_record(tmp_path, ending, packed):
    """Marks, comments, blank lines and line ends of Windows; whatever the name says of gzip."""
    log = tmp_path / f"log.{ending}"
    mark = b"\xef\xbb\xbf"
    part = mark + b"\r\n".join([ALL_KINDS.encode(), b"", b"# a comment", FAILED.encode(), b""])
    log.write_bytes(gzip.compress(part) * 2 if packed else part * 2)
    summary = LogSummary()
    found = list(iterate_records(log, summary))
    assert [record.valid for record in found] == [True, False] * 2
    assert summary.skipped == 0


def test_lines_after_a_tail_of_zeros_are_counted_rightly(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(f"{ALL_KINDS}\n".encode() + bytes(5000) + f"\n{ALL_KINDS}\n".encode())
    summary = LogSummary()
    assert len(list(iterate_records(log, summary))) == 2
    assert summary.problems[0].startswith(f"{log}:2: not JSON")


def test_the_first_problem_of_a_log_is_its_own_and_its_first(tmp_path):
    paths = [tmp_path / f"{name}.jsonl" for name in ("good", "bad", "worse")]
    paths[0].write_text(f"{ALL_KINDS}\n" + "garbage\n" * 30)
    paths[1].write_text(f'\n# a comment\n{{"j": 1}}\n{ALL_KINDS[:50]}\n')
    paths[2].write_text("x" * 2**23 + "\ngarbage\n")
    for path, first in ((paths[1], "3: expected an object"), (paths[2], "1: longer than")):
        with pytest.raises(RecordError, match=f"first problem: {path}:{first}"):
            load_records(paths[0], path, summary=LogSummary())


def test_a_log_is_read_from_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["tee", pipe], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as tee:
        assert tee.stdin is not None
        tee.stdin.write(f"{ALL_KINDS}\n{FAILED}\n".encode())
        tee.stdin.close()
        assert len(load_records(pipe)) == 2


def test_missing_log_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="no such log"):
        load_records(tmp_path / "none.jsonl")


def test_log_without_valid_measurement_is_an_error(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(FAILED + "\n")
    assert len(load_records(log)) == 1
    with pytest.raises(RecordError, match="holds no valid measurement"):
        load_records(log, valid_only=True)


def test_appended_records_are_read_back(tmp_path):
    log = tmp_path / "log.jsonl"
    record = parse_line(ALL_KINDS)
    append_records(log, [record])
    append_records(log, [record, record])
    assert load_records(log) == [record] * 3
