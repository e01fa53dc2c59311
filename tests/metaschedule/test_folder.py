"""Folders that TVM itself or a killed search left: gone on with, and nothing in them is lost."""

import dataclasses
import shutil
from pathlib import Path

import orjson
import pytest

from cwm_jax.cli.main import main
from cwm_jax.errors import RecordError
from cwm_jax.records.graph import load_graphs
from cwm_jax.records.logs import load_records
from cwm_jax.search.confirmation import best_record
from cwm_jax.tuning.metaschedule.work_dir import SearchedModule as Searched
from cwm_jax.tuning.metaschedule.work_dir import (
    SearchFolder,
    line_of,
    search_records,
    tuning_record_of,
)
from cwm_jax.tvm_bridge.metaschedule.cost_model import workload_key

OWN, OTHER = "dense:16,96,128", "dense:8,16,16"
NAMES = ("database_workload.json", "database_tuning_record.json")


@pytest.fixture(scope="module")
def theirs(tvm, target, create_task, tmp_path_factory) -> Path:
    """A folder as `tune_tir` leaves it after two workloads, of which the other one is first."""
    folder = tmp_path_factory.mktemp("theirs")
    databases = tvm.s_tir.meta_schedule.database
    database = databases.JSONDatabase(*(str(folder / name) for name in NAMES))
    for text, unit in ((OTHER, 1e-6), (OWN, 1e-3)):
        task = create_task(text)
        workload = database.commit_workload(task.module)
        for at, candidate in enumerate(task.candidates(tvm, 4)):
            seconds = [1e10] if at == 1 else [unit * (2 + at), unit * (3 + at)]
            record = (candidate.sch.trace, workload, seconds, target, candidate.args_info)
            database.commit_tuning_record(databases.TuningRecord(*record))
    return folder


@pytest.fixture
def copied(theirs, tmp_path) -> Path:
    return Path(shutil.copytree(theirs, tmp_path / "search"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def records_of(folder: Path) -> list[bytes]:
    return (folder / NAMES[1]).read_bytes().splitlines(keepends=True)


def opened(tvm, folder, task, target):
    return SearchFolder(tvm, folder).earlier([Searched(task.module, task.graph)], target)


def test_a_database_of_tvm_is_gone_on_with(tvm, target, copied, tmp_path, capsys):
    before, out = contents(copied), tmp_path / "out.json"
    command = ["tune", "--engine", "metaschedule", "--workload", OWN, "--cost-model", "random"]
    command += ["--round", "2", "--population", "64", "--json", str(out)]
    trials = len([line for line in records_of(copied) if line.startswith(b"[1,")])
    for more in (2, 4):
        count = trials + more
        assert main([*command, "--trials", str(count), "--resume", str(copied)]) == 0
        told = orjson.loads(out.read_bytes())
        assert told["trials"] == count
        assert told["latencies"][:3] == [pytest.approx(2.5e-3), None, pytest.approx(4.5e-3)]
        # Its own program, not the faster one of another workload.
        assert "T_matmul_NT: T.Buffer((16, 128)," in told["schedule"]
        after = contents(copied)
        for name in NAMES:
            assert after[name].startswith(before[name])
        assert len(records_of(copied)) == len(before[NAMES[1]].splitlines()) + more
        assert len(load_records(copied / "records.jsonl")) == count
        assert load_graphs(copied).keys() == {told["workload_key"]}
    databases = tvm.s_tir.meta_schedule.database
    again = databases.JSONDatabase(*(str(copied / name) for name in NAMES))
    assert len(again.get_all_tuning_records()) == len(records_of(copied))
    assert "backup" not in " ".join(contents(copied))


def test_the_best_program_is_found_again_in_the_database(
    tvm, target, copied, create_task, tmp_path
):
    task = create_task(OWN)
    records = opened(tvm, copied, task, target)
    best = best_record(records)
    assert best is not None
    assert best.latency == pytest.approx(2.5e-3)
    line = line_of(copied, best)
    assert line.startswith(b"[1,")
    found = tuning_record_of(tvm, copied, line)
    assert task.steps(tvm, [found.as_measure_candidate()]) == [best.steps]
    assert search_records(copied) == records


@pytest.mark.parametrize("tail", [b"", b"torn"])
def test_what_a_kill_left_is_mended_and_a_copy_is_kept(tvm, target, copied, create_task, tail):
    trials = copied / NAMES[1]
    lines = trials.read_bytes().rstrip(b"\n")
    trials.write_bytes(lines + (b"\n" + lines[:90] if tail else b""))
    broken = trials.read_bytes()
    task = create_task(OWN)
    if tail:
        with pytest.warns(UserWarning, match=r"last line was cut off .*backup1 is as it was"):
            opened(tvm, copied, task, target)
        assert trials.with_name(f"{trials.name}.backup1").read_bytes() == broken
    else:
        opened(tvm, copied, task, target)
    assert trials.read_bytes() == lines + b"\n"
    torn = (copied / "records.jsonl").read_bytes() + b'{"i": [["cut off'
    (copied / "records.jsonl").write_bytes(torn)
    with pytest.warns(UserWarning, match="records.jsonl: its last line was cut off"):
        opened(tvm, copied, task, target)
    assert (copied / "records.jsonl.backup1").read_bytes() == torn


def test_lines_that_cannot_be_read_stay_and_are_said(tvm, target, copied, create_task):
    trials = copied / NAMES[1]
    lines = records_of(copied)
    text = b"".join([*lines[:2], b"garbage\n", *lines[2:]])
    trials.write_bytes(text)
    with pytest.warns(UserWarning, match=rf"1 lines cannot be read .*{NAMES[1]}:3: not JSON"):
        found = opened(tvm, copied, create_task(OWN), target)
    assert len(found) == sum(line.startswith(b"[1,") for line in lines)
    assert trials.read_bytes() == text


def test_records_need_no_target_no_arguments_and_no_latency(tvm, target, copied, create_task):
    lines = [orjson.loads(line) for line in records_of(copied)]
    for at, (_, fields) in enumerate(lines):
        fields[2] = fields[3] = None
        if at == len(lines) - 1:
            fields[1] = None
    (copied / NAMES[1]).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    with pytest.warns(UserWarning, match="records do not say their target"):
        found = opened(tvm, copied, create_task(OWN), target)
    assert found[0].latency == pytest.approx(2.5e-3)
    assert [record.valid for record in (found[0], found[1], found[-1])] == [True, False, False]


def test_what_is_not_of_the_search_is_refused_and_left_as_it_is(tvm, target, copied, create_task):
    before = contents(copied)
    other = tvm.target.Target({"kind": "llvm", "mcpu": "skylake-avx512", "num-cores": 64})
    with pytest.raises(RecordError, match=r"cannot resume, it holds .*; give --target '{.*llvm"):
        opened(tvm, copied, create_task(OWN), other)
    with pytest.raises(RecordError, match="name another folder by --log"):
        opened(tvm, copied, create_task("dense:4,16,16"), target)
    assert contents(copied) == before
    (copied / "records.jsonl").write_text("my own notes\n")
    before = contents(copied)
    with pytest.raises(RecordError, match=r"records\.jsonl: no readable tuning record"):
        opened(tvm, copied, create_task(OWN), target)
    assert contents(copied) == before


def test_a_function_of_another_name_is_the_same_workload(tvm, target, copied, create_task):
    task = create_task(OWN)
    function = task.module["main"].with_attr("global_symbol", "another")
    named = tvm.IRModule({"main": function})
    expected = opened(tvm, copied, task, target)
    shutil.rmtree(copied / "records.jsonl", ignore_errors=True)
    graph = dataclasses.replace(task.graph, workload_key=workload_key(named))
    assert graph != task.graph
    found = SearchFolder(tvm, copied).earlier([Searched(named, graph)], target)
    assert [record.costs for record in found] == [record.costs for record in expected]
