"""The world model in MetaSchedule's place for a cost model."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import pytest
from scipy.stats import spearmanr
from support.trace_process import answering

from cwm_jax.cli.main import main
from cwm_jax.errors import CheckpointError
from cwm_jax.features.trace_helper import group_trace_lines
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import graphs_path, read_graphs
from cwm_jax.records.logs import load_records
from cwm_jax.tuning.reference import read_reference
from cwm_jax.tvm_bridge.metaschedule import WorldModelCostModel
from cwm_jax.tvm_bridge.metaschedule import traces as reading
from cwm_jax.tvm_bridge.metaschedule.traces import CandidateReader

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
CHECKPOINT = str(ROOT / "checkpoints" / "cpu-x86-2core")


@pytest.fixture(scope="module")
def scorer():
    return Scorer.load(CHECKPOINT)


@pytest.fixture(scope="module")
def task(create_task):
    return create_task("conv2d:1,14,14,32,64,3,1,1")


def results_of(tvm, seconds):
    result = tvm.s_tir.meta_schedule.runner.RunnerResult
    return [
        result(None, "failed") if np.isinf(value) else result([float(value)], None)
        for value in seconds
    ]


def test_candidates_are_scored_alike_in_any_company(tvm, task, scorer):
    model = WorldModelCostModel(scorer)
    candidates = task.candidates(tvm, 16)
    scores = model.predict(task.context, candidates)
    assert scores.shape == (len(candidates),)
    assert scores.dtype == np.float64
    assert len(set(scores.tolist())) > len(candidates) // 2
    backwards = model.predict(task.context, candidates[::-1])
    np.testing.assert_allclose(backwards[::-1], scores, atol=1e-4)


def test_a_second_process_reads_most_and_changes_no_score(tvm, task, scorer, monkeypatch):
    reader = CandidateReader(tvm)
    candidates = task.candidates(tvm, 300)
    assert len(candidates) >= 256
    model = WorldModelCostModel(scorer, reader=reader)
    alone = model.predict(task.context, candidates)  # the process has only just been started
    answering(reader._helper)

    read_here = []

    def counted(lines, graph, unread):
        read_here.extend(lines)
        return group_trace_lines(lines, graph, unread)

    monkeypatch.setattr(reading, "group_trace_lines", counted)
    fresh = WorldModelCostModel(scorer, reader=reader)
    fresh.predict(task.context, candidates[::3])  # these are known then
    known = len(read_here)
    both = fresh.predict(task.context, candidates)
    np.testing.assert_allclose(both, alone, atol=1e-4)
    assert 0 < len(read_here) - known < (len(candidates) - known) / 2


def test_measurements_correct_the_ranking_and_can_be_kept(tvm, task, scorer, tmp_path):
    model = WorldModelCostModel(scorer)
    candidates = task.candidates(tvm, 48)
    before = model.predict(task.context, candidates)
    # A machine that likes what the model dislikes.
    seconds = np.exp(before - before.max())
    learnt = len(candidates) // 2
    seconds[0] = np.inf
    model.update(task.context, candidates[:learnt], results_of(tvm, seconds[:learnt]))
    after = model.predict(task.context, candidates)
    fresh = slice(learnt, None)
    disagreement = spearmanr(before[fresh], -seconds[fresh]).statistic
    assert spearmanr(after[fresh], -seconds[fresh]).statistic > disagreement + 0.3

    model.save(str(tmp_path / "model.json"))
    again = WorldModelCostModel(scorer)
    again.load(str(tmp_path / "model.json"))
    np.testing.assert_allclose(again.predict(task.context, candidates), after, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no saved"),
        ("[]", "expected an object"),
        ('{"measured": 3}', "expected an object whose field 'measured' is a list"),
        ('{"measured": [[1, 2]]}', "entry 0: found [1, 2], expected [workload key, steps, seconds"),
        ('{"measured": [["k", [["CI", [0]]], "1"]]}', "entry 0: found latency '1', expected sec"),
        ('{"measured": [["k", [["CI", 0]], 1]]}', "found step ['CI', 0], expected [kind, fields]"),
        ('{"measured": [["k", [["XX", [0]]], 1]]}', "step 0: unknown kind 'XX'"),
        ('{"measured": [["k", [["CI", [[1]]]], 1]]}', "step 0 (CI), field 'stage': found [1]"),
        ('{"measured": [["k", [["CI", [{}]]], 1]]}', "step 0 (CI), field 'stage': found {}"),
        ('{"measured": [["k", [["CI", [0]]], 1, 5]]}', "entry 0: found device 5"),
        ('{"measured": [["k", [["CI", [0]]], NaN]]}', "no saved measurements"),
    ],
)
def test_what_is_no_saved_model_is_refused(scorer, tmp_path, text, says):
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(says)) as raised:
        WorldModelCostModel(scorer).load(str(path))
    assert str(path) in str(raised.value)


def test_saved_measurements_of_earlier_versions_are_read_whatever_their_editor(
    tvm, task, scorer, tmp_path
):
    candidates = task.candidates(tvm, 12)
    seconds = np.linspace(1e-3, 1e-2, len(candidates))
    model = WorldModelCostModel(scorer)
    model.update(task.context, candidates, results_of(tvm, seconds))
    expected = model.predict(task.context, candidates)
    path = tmp_path / "model.json"
    model.save(str(path))
    data = orjson.loads(path.read_bytes())
    assert data["measured"][0].pop()["kind"] == "llvm"
    data["measured"] = [entry[:3] for entry in data["measured"]]
    path.write_bytes(b"\xef\xbb\xbf" + orjson.dumps(data))
    again = WorldModelCostModel(scorer)
    again.load(str(path))
    np.testing.assert_allclose(again.predict(task.context, candidates), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "seconds", [[0.0], [-1.0], [np.nan], [np.inf], [], [1e10], [1e-3, np.nan], [1e-3, 0.0]]
)
def test_a_latency_that_is_none_counts_as_failed(tvm, task, scorer, seconds):
    result = tvm.s_tir.meta_schedule.runner.RunnerResult
    candidates = task.candidates(tvm, 12)
    rest = [result([1e-3 * (at + 1)], None) for at in range(len(candidates) - 1)]
    scores = []
    for last in (result(seconds, None), result(None, "failed")):
        model = WorldModelCostModel(scorer)
        model.update(task.context, candidates, [*rest, last])
        assert model.online.measured[task.graph.workload_key][-1][1] == np.inf
        scores.append(model.predict(task.context, candidates))
    assert np.isfinite(scores[0]).all()
    np.testing.assert_array_equal(*scores)


def test_measurements_on_one_target_say_nothing_of_another(tvm, task, scorer):
    candidates = task.candidates(tvm, 24)
    target = tvm.target.Target({"kind": "llvm", "mcpu": "skylake-avx512", "num-cores": 64})
    other = tvm.s_tir.meta_schedule.TuneContext(mod=task.module, target=target)
    model, fresh = WorldModelCostModel(scorer), WorldModelCostModel(scorer)
    seconds = np.linspace(1e-3, 1e-2, len(candidates))
    fresh.update(task.context, candidates, results_of(tvm, seconds))
    model.update(task.context, candidates, results_of(tvm, seconds))
    model.update(other, candidates, results_of(tvm, seconds[::-1]))
    np.testing.assert_array_equal(
        model.predict(task.context, candidates), fresh.predict(task.context, candidates)
    )
    assert spearmanr(model.predict(other, candidates), seconds).statistic > 0.3


def test_the_readme_snippet_tunes(tmp_path):
    """Runs the very lines of the README, in a user's own script."""
    readme = (ROOT / "README.md").read_text()
    snippet = re.search(r"<!-- metaschedule -->\s*```python\n(.*?)```", readme, re.DOTALL)
    assert snippet is not None
    script = tmp_path / "script.py"
    script.write_text(
        snippet[1]
        .replace("max_trials_global=64", "max_trials_global=4, num_trials_per_iter=2")
        .replace('"tune"', f'"{tmp_path / "tune"}"')
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "tune" / "database_tuning_record.json").read_text().splitlines()
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("cost_model", "search"),
    [("world-model", "planner"), ("world-model", "evolutionary"), ("xgboost", "evolutionary")],
)
def test_cwm_tune_measures_and_resumes(tmp_path, cost_model, search):
    folder, out = tmp_path / "search", tmp_path / "out.json"
    common = ["tune", "--engine", "metaschedule", "--workload", "dense:16,96,128"]
    common += ["--cost-model", cost_model, "--search", search, "--round", "4", "--json", str(out)]
    common += ["--population", "64"]
    if cost_model == "world-model":
        common += ["--checkpoint", CHECKPOINT]
    assert main([*common, "--trials", "4", "--log", str(folder)]) == 0
    first = orjson.loads(out.read_bytes())
    assert first["trials"] == 4
    assert 0 < first["best_latency"] < 1
    assert "T.prim_func" in first["schedule"]
    assert main([*common, "--trials", "8", "--resume", str(folder)]) == 0
    second = orjson.loads(out.read_bytes())
    assert second["trials"] == 8
    assert second["latencies"][:4] == first["latencies"]
    records = load_records(folder / "records.jsonl")
    assert len(records) == len({record.steps for record in records}) == 8
    lines = (folder / "database_tuning_record.json").read_bytes().splitlines()
    assert len(lines) == 8

    # The database alone tells the same.
    imported = tmp_path / "imported.jsonl.gz"
    assert main(["import", str(folder), "--out", str(imported), "--json", str(out)]) == 0
    told = orjson.loads(out.read_bytes())
    assert (told["programs"], told["valid"], told["skipped"]) == (1, 8, 0)
    again = load_records(imported)
    assert [(r.workload_key, r.steps, r.costs) for r in again] == [
        (r.workload_key, r.steps, r.costs) for r in records
    ]
    beside = [graphs_path(path) for path in (imported, folder / "records.jsonl")]
    assert read_graphs(beside[0]) == read_graphs(beside[1])


def test_cwm_tune_measures_the_best_again(tmp_path, capsys):
    folder, out = tmp_path / "search", tmp_path / "out.json"
    common = ["tune", "--engine", "metaschedule", "--workload", "dense:16,96,128", "--round", "4"]
    common += ["--checkpoint", CHECKPOINT, "--json", str(out), "--confirm", "4"]
    common += ["--population", "64"]
    steadily = [*common, "--reference-every", "2"]
    assert main([*steadily, "--trials", "8", "--log", str(folder)]) == 0
    told = orjson.loads(out.read_bytes())
    assert [done["confirming"] for done in told["rounds"]] == [False, True, True]
    assert told["best_measured"] == 9  # three times three
    records = load_records(folder / "records.jsonl")
    assert {len(record.costs) for record in records} == {3}
    runs = read_reference(folder / "records.reference.jsonl")
    assert len(runs[0].latencies) == 3  # around four candidates in groups of two
    assert runs[0].kept in {0, 1, 2}
    assert {run.level for run in runs} == {runs[0].level}
    assert [record.latency for record in records] == told["latencies"]
    ordered = sorted(records[:4], key=lambda record: record.latency)
    finalists = {record.steps for record in ordered[:2]}
    assert {record.steps for record in records[4:6]} == finalists
    assert {record.steps for record in records[6:]} == finalists
    means = [np.mean([r.latency for r in records if r.steps == steps]) for steps in finalists]
    assert told["best_latency"] == pytest.approx(min(means))
    lines = (folder / "database_tuning_record.json").read_bytes().splitlines()
    assert len(lines) == 8
    # Resumed, it recalls the programs that were measured by another process, which was killed when
    # it had written half of a round.
    with (folder / "database_tuning_record.json").open("ab") as database:
        database.write(lines[-1] + b"\n" + lines[-1][:40])
    with (folder / "records.jsonl").open("ab") as log:
        log.write(b'{"i": [["cut off')
    assert main([*common, "--trials", "12", "--resume", str(folder)]) == 2
    assert "add --reference-every" in " ".join(capsys.readouterr().err.split())
    assert main([*steadily, "--trials", "13", "--resume", str(folder)]) == 0
    told = orjson.loads(out.read_bytes())
    assert [done["confirming"] for done in told["rounds"]] == [True, True]
    resumed = (folder / "database_tuning_record.json").read_bytes().splitlines()
    assert len(resumed) == len(load_records(folder / "records.jsonl")) == 13
    assert resumed[:9] == [*lines, lines[-1]]
    assert len(list(folder.glob("*.backup1"))) == 2


def test_another_workload_is_not_resumed(tmp_path, capsys):
    folder = tmp_path / "search"
    common = ["tune", "--engine", "metaschedule", "--cost-model", "random", "--trials", "2"]
    common += ["--population", "32"]
    assert main([*common, "--workload", "dense:8,16,16", "--log", str(folder)]) == 0
    assert main([*common, "--workload", "dense:8,16,32", "--resume", str(folder)]) == 2
    assert "cannot resume" in capsys.readouterr().err


def test_what_makes_no_sense_is_refused_in_words(tmp_path, capsys, monkeypatch):
    tune = ["tune", "--engine", "metaschedule", "--workload", "dense:8,16,16", "--trials", "2"]
    assert main([*tune, "--cost-model", "xgboost", "--pretrain", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err.replace("\n", "")
    assert main([*tune, "--rpc", "localhost:key"]) == 2
    assert "HOST:PORT:KEY" in capsys.readouterr().err
    assert main([*tune, "--cost-model", "mlp"]) == 2
    assert "give --pretrain" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    assert main([*tune, "--cost-model", "mlp", "--pretrain", str(tmp_path)]) == 2
    assert "needs PyTorch" in capsys.readouterr().err
    assert main([*tune, "--target", '{"kind": "llvm", "mcpu": "i8086"}']) == 2
    assert "i8086" in capsys.readouterr().err


def test_ctrl_c_keeps_the_finished_rounds(tmp_path):
    folder = tmp_path / "search"
    command = [sys.executable, "-m", "cwm_jax.cli.main", "tune", "--engine", "metaschedule"]
    command += ["--workload", "dense:16,96,128", "--trials", "2000", "--round", "4"]
    command += ["--cost-model", "random", "--population", "32", "--log", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    records = folder / "records.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (records.exists() and records.stat().st_size):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert b"--resume" in errors
    assert len(load_records(records)) % 4 == 0
