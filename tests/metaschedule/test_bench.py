"""The search benchmark with MetaSchedule, with searches of a few trials."""

import json

import pytest

from cwm_jax.cli.main import main


@pytest.mark.usefixtures("unsteady", "small_searches")
def test_searches_are_compared_and_never_run_twice(tmp_path, capsys):
    out, result = tmp_path / "searches", tmp_path / "search.json"
    arguments = ["bench", "search", "--engine", "metaschedule", "--workloads", "matmul:64,64,64"]
    arguments += ["--variants", "random", "xgboost", "--seeds", "0", "--trials", "2", "4"]
    arguments += ["--rounds", "1", "--out", str(out), "--json", str(result)]
    assert main(arguments) == 0
    data = json.loads(result.read_text())
    assert {"geomean_vs_xgb_4", "worst_vs_xgb_4", "round_seconds_ratio"} < set(data)
    assert data["variants"]["random"]["speedup"]["2"]["pairs"] == 1
    assert all(0 < row["latency"] < 1 for row in data["rows"])
    assert len(data["rows"]) == 4
    winners = (out / "winners.jsonl").read_text()
    assert main(arguments) == 0
    assert (out / "winners.jsonl").read_text() == winners

    pretrained = ["--variants", "xgboost-pretrained", "--corpus", str(tmp_path / "nowhere")]
    assert main([*arguments, *pretrained]) == 2
    assert "nowhere/tasks.jsonl.gz" in capsys.readouterr().err


def test_throughput_is_measured_where_metaschedule_asks(tmp_path):
    result = tmp_path / "throughput.json"
    arguments = ["bench", "throughput", "--engine", "metaschedule", "--repeats", "1"]
    arguments += ["--workload", "matmul:64,64,64", "--batches", "8", "32"]
    assert main([*arguments, "--json", str(result)]) == 0
    data = json.loads(result.read_text())
    assert set(data["predict_speedup"]) == {"8", "32"}
    assert all(ratio > 0 for ratio in data["predict_speedup"].values())
    assert data["array_candidates_per_second"] > 100


def test_a_batch_is_as_large_as_the_search_space(tmp_path):
    result = tmp_path / "throughput.json"
    arguments = ["bench", "throughput", "--engine", "metaschedule", "--repeats", "1"]
    arguments += ["--workload", "matmul:2,2,2", "--batches", "4", "4096"]
    assert main([*arguments, "--json", str(result)]) == 0
    batches = sorted(map(int, json.loads(result.read_text())["predict_speedup"]))
    assert batches[-1] < 4096
