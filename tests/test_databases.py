"""MetaSchedule's databases as logs, read without TVM."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from cwm_jax import load_graphs, load_records
from cwm_jax.cli.main import main
from cwm_jax.errors import RecordError
from cwm_jax.records.lines import every_line
from cwm_jax.records.metaschedule.database import RECORDS_FILE, WORKLOADS_FILE
from cwm_jax.records.metaschedule.trace import parse_trace
from cwm_jax.records.metaschedule.translate import translate_trace

DATA = Path(__file__).parent / "data"
GOLDEN = [orjson.loads(line) for _, line in every_line(DATA / "traces.jsonl.gz")]
KEYS = list(dict.fromkeys(golden["workload"] for golden in GOLDEN))
TARGET = {"kind": "llvm", "num-cores": 2}


def write_database(folder: Path, target=TARGET, arguments=(), ending=b"\n", packed=False) -> Path:
    """Writes the golden traces as TVM does, each workload's with rising latencies."""
    folder.mkdir()
    seen = dict.fromkeys(KEYS, 0)
    records = []
    for golden in GOLDEN:
        seen[golden["workload"]] += 1
        seconds = [1e-3 * seen[golden["workload"]]]
        fields = [golden["trace"], seconds, target, arguments]
        records.append(orjson.dumps([KEYS.index(golden["workload"]), fields]))
    workloads = [orjson.dumps([key, "module"]) for key in KEYS]
    for name, lines in ((WORKLOADS_FILE, workloads), (RECORDS_FILE, records)):
        text = b"\xef\xbb\xbf" + b"".join(line + ending for line in lines)
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(text) if packed else text)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_is_read_with_the_graphs_that_lie_in_it(tmp_path, packed):
    folder = write_database(tmp_path / "work", ending=b"\r\n", packed=packed)
    alone = load_records(folder)
    assert load_graphs(folder) == {}
    (folder / "imported.programs.jsonl.gz").write_bytes(
        (DATA / "traces.programs.jsonl.gz").read_bytes()
    )
    assert load_graphs(folder).keys() == {*KEYS}
    records = load_records(folder)
    graphs = load_graphs(folder)
    for record, golden in zip(records, GOLDEN, strict=True):
        trace, graph = parse_trace(golden["trace"]), graphs[golden["workload"]]
        assert record.steps == translate_trace(trace, graph)
    assert [r.costs for r in alone] == [r.costs for r in records]
    assert sum(bool(record.steps) for record in alone) > len(GOLDEN) // 2


def test_eval_score_and_train_read_a_folder_and_no_tvm(tmp_path):
    folder = write_database(tmp_path / "work", target=None, arguments=None)
    out, scores = tmp_path / "out.json", tmp_path / "scores.jsonl"
    script = tmp_path / "without_tvm.py"
    script.write_text(
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['tvm', 'tvm_ffi', 'bitblas']))\n"
        "from cwm_jax.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    def cwm(*arguments: object) -> str:
        command = [sys.executable, script, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(DATA.parents[1])}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return " ".join(done.stderr.split())

    checkpoint = ["--checkpoint", "cpu-x86-zen4"]
    told = cwm("eval", folder, *checkpoint, "--include-training", "--json", out)
    assert "without a compute graph" in told
    assert "records do not say their target" in told
    assert json.loads(out.read_text())["workloads"].keys() <= {*KEYS}
    cwm("score", folder, *checkpoint, "--out", scores)
    assert len(scores.read_text().splitlines()) == len(GOLDEN)
    train = ["train", folder, "--hardware", "cpu-x86-2core", "--epochs", 1]
    cwm(*train, "--out", tmp_path / "checkpoint")
    card = json.loads((tmp_path / "checkpoint" / "card.json").read_text())
    assert card["engines"] == ["metaschedule"]
    assert card["data"][0]["file"] == "work"


@pytest.mark.parametrize("command", ["eval", "score", "train", "import"])
def test_a_folder_of_which_nothing_can_be_read_is_an_error_that_says_why(tmp_path, command, capsys):
    folder = write_database(tmp_path / "work")
    more = {
        "score": ["--out", str(tmp_path / "scores")],
        "train": ["--hardware", "cpu-x86-2core", "--out", str(tmp_path / "checkpoint")],
        "import": ["--out", str(tmp_path / "log.jsonl")],
    }.get(command, [])
    for text, says in (
        (b"", "it is empty"),
        (b"garbage\n", f"first problem: {folder / RECORDS_FILE}:1: not JSON"),
        (b"[9, [[], [1.0], null, null]]\n", "workload 9, expected one below"),
    ):
        (folder / RECORDS_FILE).write_bytes(text)
        assert main([command, str(folder), *more]) == 2
        assert says in " ".join(capsys.readouterr().err.split())
    (folder / RECORDS_FILE).unlink()
    assert main([command, str(folder), *more]) == 2
    assert f"{RECORDS_FILE}: no such file, expected" in " ".join(capsys.readouterr().err.split())
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main([command, str(empty), *more]) == 2
    assert "no such file, expected a log or a MetaSchedule database" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"work", "empty"}


def test_a_workload_that_was_cut_off_is_left_out(tmp_path):
    folder = write_database(tmp_path / "work")
    workloads = folder / WORKLOADS_FILE
    workloads.write_bytes(workloads.read_bytes().rstrip(b"\n")[:-5])
    with pytest.warns(UserWarning, match=f"workload {len(KEYS) - 1}, expected one below"):
        assert {r.workload_key for r in load_records(folder)} == {*KEYS[:-1]}
    workloads.write_bytes(b"\n" + workloads.read_bytes())
    with pytest.raises(RecordError, match=r":1: not JSON"):
        load_records(folder)
