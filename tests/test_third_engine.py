"""A third engine is one module: it tunes, collects and is benchmarked, and nothing else changes."""

import json
from pathlib import Path

import pytest

import cwm_jax
from cwm_jax import load_records
from cwm_jax.cli.main import main
from cwm_jax.errors import CwmError, WorkloadError
from cwm_jax.tuning.registry import find_engine

NAME = "tile_engine:TILES"
WORKLOAD = "matmul:96,96,96"

pytestmark = pytest.mark.filterwarnings("ignore::cwm_jax.ranking.online.TrustWarning")


@pytest.fixture(autouse=True)
def _found_by_children(monkeypatch):
    support = str(Path(__file__).parent / "support")
    monkeypatch.setenv("PYTHONPATH", support)
    monkeypatch.syspath_prepend(support)


@pytest.mark.parametrize("model", ["world-model", "random"])
def test_it_tunes_and_goes_on(model, tmp_path):
    log = tmp_path / "log.jsonl"
    options = {"engine": NAME, "cost_model": model, "checkpoint": "cpu-x86-2core", "log": log}
    first = cwm_jax.tune(WORKLOAD, trials=16, confirm=4, **options)
    assert first.best is not None
    assert first.best_latency == first.best.latency
    assert list(first.curve) == sorted(first.curve, reverse=True)
    assert first.schedule.startswith("tiles of (")
    assert len(load_records(log)) == 16
    assert len({record.steps for record in load_records(log)}) <= 12  # four measured again
    more = cwm_jax.tune(WORKLOAD, trials=24, resume=True, confirm=0, **options)
    assert more.latencies[:16] == pytest.approx(first.latencies)
    assert len(load_records(log)) == 24
    with pytest.raises(CwmError, match="exists"):
        cwm_jax.tune(WORKLOAD, **options)


def test_the_command_line_tunes_by_it(tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["tune", "--engine", NAME, "--workload", WORKLOAD, "--trials", "8"]
    arguments += ["--log", str(tmp_path / "log.jsonl"), "--json", str(out)]
    assert main([*arguments, "--checkpoint", "cpu-x86-2core"]) == 0
    told = json.loads(out.read_text())
    assert (told["engine"], told["search"], told["trials"]) == (NAME, "planner", 8)
    assert "tiles of (" in capsys.readouterr().out
    assert main(["tune", "--engine", NAME, "--network", "mlp:1"]) == 2
    assert "tunes no networks" in capsys.readouterr().err
    assert main([*arguments[:4], "softmax:4,4"]) == 2
    assert "multiplies matrices only" in capsys.readouterr().err


def test_it_collects_a_corpus_that_is_trained_on(tmp_path):
    corpus = tmp_path / "corpus"
    arguments = ["collect", "--engine", NAME, "--out", str(corpus), "--tolerance", "1e9"]
    arguments += [
        "--checkpoint",
        "none",
        "--round",
        "8",
        "--workloads",
        WORKLOAD,
        "matmul:64,96,32",
    ]
    assert main([*arguments, "--records", "8"]) == 0
    assert len(load_records(corpus / "records.jsonl.gz")) == 16
    assert main([*arguments, "--records", "12"]) == 0
    assert len(load_records(corpus / "records.jsonl.gz")) == 24
    assert main([*arguments, "--remeasure", "4"]) == 0
    assert len(load_records(corpus / "remeasured.jsonl.gz")) == 4
    graphs = cwm_jax.load_graphs(corpus / "records.jsonl.gz")
    scorer = cwm_jax.Scorer.load("cpu-x86-2core")
    assert len(scorer.score(load_records(corpus / "records.jsonl.gz"), graphs)) == 24


@pytest.mark.usefixtures("unsteady")
def test_it_is_benchmarked(tmp_path):
    result = tmp_path / "search.json"
    arguments = ["bench", "search", "--engine", NAME, "--workloads", WORKLOAD, "--seeds", "0"]
    arguments += ["--trials", "4", "8", "--rounds", "1", "--out", str(tmp_path / "searches")]
    assert main([*arguments, "--checkpoint", "cpu-x86-2core", "--json", str(result)]) == 0
    data = json.loads(result.read_text())
    assert data["geomean_vs_random_8"] > 0
    assert {row["variant"] for row in data["rows"]} == {"world-model", "random"}
    throughput = ["bench", "throughput", "--engine", NAME, "--workload", WORKLOAD, "--repeats", "1"]
    assert main([*throughput, "--checkpoint", "cpu-x86-2core", "--json", str(result)]) == 0
    assert json.loads(result.read_text())["predict"][0]["random"] > 0


@pytest.mark.parametrize("name", ["nothing", "nowhere:AT_ALL", "tile_engine:Tiled", ":", ""])
def test_what_is_no_engine_is_an_error(name, capsys):
    with pytest.raises(CwmError, match="engine"):
        find_engine(name)
    assert main(["tune", "--engine", name, "--workload", WORKLOAD]) == 2
    assert "engine" in capsys.readouterr().err


def test_what_it_cannot_tune_is_an_error(tmp_path):
    with pytest.raises(WorkloadError, match="matrices only"):
        cwm_jax.tune("softmax:4,4", engine=NAME, cost_model="random", log=tmp_path / "log.jsonl")
    with pytest.raises(CwmError, match="Tiles has world-model, random"):
        cwm_jax.tune(WORKLOAD, engine=NAME, cost_model="xgboost", log=tmp_path / "log.jsonl")
