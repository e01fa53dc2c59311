"""The search benchmark, with searches of a few trials."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cwm_jax.bench.best_candidates import Remeasured, Winner, remeasure, to_winners_level
from cwm_jax.bench.search import folders_of, plan_runs, run_search
from cwm_jax.bench.throughput import distinct_beginnings
from cwm_jax.cli.main import main
from cwm_jax.errors import CwmError
from cwm_jax.records.steps import Step
from cwm_jax.tuning.reference import ReferenceRun, append_reference
from cwm_jax.tuning.registry import find_engine

pytestmark = pytest.mark.long
WORKLOAD = "matmul:64,64,64"


@pytest.mark.usefixtures("unsteady", "small_searches")
def test_searches_are_compared_and_never_run_twice(tmp_path, capsys):
    out, result = tmp_path / "searches", tmp_path / "search.json"
    arguments = ["bench", "search", "--workloads", WORKLOAD, "--variants", "random", "xgboost"]
    arguments += ["--seeds", "0", "--trials", "1", "3", "--rounds", "1", "--out", str(out)]
    arguments += ["--reference", WORKLOAD, "--reference-trials", "5", "--json", str(result)]
    throughput = tmp_path / "throughput.json"
    throughput.write_text('{"predict_speedup": {"512": 12.5}}')
    assert main([*arguments, "--throughput", str(throughput)]) == 0
    data = json.loads(result.read_text())
    assert data["predict_speedup"] == {"512": 12.5}
    assert data["scored_ratio_in_search"] is None  # the first variant is no world model
    assert {"geomean_vs_xgboost_3", "worst_vs_xgboost_3", "round_seconds_ratio"} < set(data)
    assert data["variants"]["xgboost"]["speedup"]["3"]["geomean"] == pytest.approx(1)
    assert data["variants"]["random"]["speedup"]["1"]["pairs"] == 1
    assert len(data["rows"]) == 5
    assert all(0 < row["latency"] < 1 for row in data["rows"])
    assert all(row["spread"] == 1 for row in data["rows"])  # measured once
    assert all(len(curve["best"]) == curve["trials"] for curve in data["curves"])
    assert "geometric mean" in capsys.readouterr().out
    again = [json.loads(line)["latency"] for line in (out / "winners.jsonl").open()]
    (long,) = (row for row in data["rows"] if row["trials"] == 5)
    assert len(again) >= 5  # the best five of the long search
    assert long["latency"] == data["optimum"][WORKLOAD] <= sorted(again)[-5]

    logs = {path: path.read_bytes() for path in out.iterdir()}
    assert main(arguments) == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == logs
    assert json.loads(result.read_text())["rows"] == data["rows"]

    # As if another machine had measured it.
    here = tmp_path / "here"
    arguments[arguments.index("--out") + 1] = str(here)
    assert main([*arguments, "--with", str(out)]) == 0
    assert json.loads(result.read_text())["rows"] == data["rows"]
    assert {path: path.read_bytes() for path in out.iterdir()} == logs
    assert [path.name for path in here.iterdir()] == ["machine.json"]
    arguments[arguments.index("--rounds") + 1] = "2"
    assert main([*arguments, "--with", str(out)]) == 2
    assert "not measured in as many rounds" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", [None, "[]", "{", '{"rows": []}'])
def test_figures_of_another_kind_are_refused(text, tmp_path, capsys):
    file = tmp_path / "other.json"
    if text is not None:
        file.write_text(text)
    assert main(["bench", "search", "--throughput", str(file)]) == 2
    assert "expected the JSON of cwm bench throughput" in " ".join(capsys.readouterr().err.split())


def test_each_engine_has_its_own_ways_to_search(capsys):
    assert main(["bench", "search", "--engine", "ansor", "--variants", "xgboost", "mlp"]) == 2
    assert "mlp is not a way to search ansor" in capsys.readouterr().err


@pytest.mark.parametrize(("before", "now"), [(None, 1), (1, None), (1, 4)])
def test_searches_that_were_measured_otherwise_are_not_compared(before, now, tmp_path):
    (run,) = plan_runs([WORKLOAD], ["random"], [0], 4)
    (tmp_path / f"{run.name}.json").write_text(json.dumps({"reference_every": before}))
    kept = (run, find_engine("ansor"), "none", tmp_path, tmp_path)
    assert run_search(*kept, before)["reference_every"] == before
    with pytest.raises(CwmError, match=f"--reference-every {before}, not {now}"):
        run_search(*kept, now)


def test_latencies_of_searches_are_told_at_the_level_of_their_winners(tmp_path):
    records, winners = tmp_path / "search.jsonl", tmp_path / "winners.jsonl"
    row = {"program": "a", "round": 0, "latency": 1e-3}
    winners.write_text(json.dumps({**row, "level": 3e-3}) + "\n")
    assert to_winners_level(records, winners) == 1.0
    run = ReferenceRun(0.0, 2e-3, (2e-3, 2e-3), accepted=True, kept=1)
    append_reference(tmp_path / "search.reference.jsonl", run)
    assert to_winners_level(records, winners) == pytest.approx(1.5)
    winners.write_text(json.dumps(row) + "\n")
    assert to_winners_level(records, winners) == 1.0


def test_variants_take_turns_to_go_first():
    runs = plan_runs(["a", "b"], ["x", "y"], [0, 1], 64)
    assert [run.variant for run in runs] == ["x", "y", "y", "x", "y", "x", "x", "y"]
    assert len({run.name for run in runs}) == len(runs)


def test_pairs_lie_in_one_folder(tmp_path):
    runs = plan_runs(["a", "b"], ["x", "y"], [0, 1], 64)
    own, other = tmp_path / "own", tmp_path / "other"
    other.mkdir()
    finished = [run for run in runs if run.workload == "a"] + [runs[-1]]
    for run in finished:
        (other / f"{run.name}.json").touch()
    folders = folders_of(runs, own, [tmp_path / "none", other])
    assert list(folders) == runs
    assert {run for run, folder in folders.items() if folder == other} == set(finished[:-1])
    assert set(folders.values()) == {own, other}


def test_unscaled_measurements_count_until_something_is_added(tmp_path):
    file = tmp_path / "winners.jsonl"
    old = [{"program": name, "round": 0, "latency": 9.0} for name in "ab"]
    file.write_text("".join(json.dumps(row) + "\n" for row in old))
    asked: list[str] = []

    def measure(winners: Sequence[Winner]) -> list[Remeasured]:
        measured: list[Remeasured] = []
        for winner in winners:
            asked.append(winner.name)
            measured.append(Remeasured(len(asked), 0.5))
        return measured

    a, b = (Winner(name, 1.0, Path(), None) for name in "ab")
    assert remeasure([a, b, a], measure, 1, file) == [[9.0], [9.0], [9.0]]
    assert asked == []
    assert remeasure([a, b], measure, 3, file) == [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]
    assert asked == ["a", "b"] * 3
    assert remeasure([b, a], measure, 3, file) == [[2.0, 4.0, 6.0], [1.0, 3.0, 5.0]]
    assert [json.loads(line).get("level") for line in file.read_text().splitlines()] == [
        *[None] * 2,
        *[0.5] * 6,
    ]


def test_winners_are_measured_a_few_together_and_kept_as_they_are(tmp_path):
    file, batches = tmp_path / "winners.jsonl", []
    winners = [Winner(f"{number}", 1.0, Path(), None) for number in range(19)]

    def measure(some: Sequence[Winner]) -> list[Remeasured]:
        if len(batches) == 4:
            raise CwmError("interrupted")
        batches.append([winner.name for winner in some])
        return [Remeasured(float(winner.name), 0.5) for winner in some]

    with pytest.raises(CwmError, match="interrupted"):
        remeasure(winners, measure, 2, file)
    names = [winner.name for winner in winners]
    assert batches == [names[:8], names[8:16], names[16:], names[:8]]
    batches.clear()
    assert remeasure(winners, measure, 2, file) == [[float(name)] * 2 for name in names]
    assert batches == [names[8:16], names[16:]]


def test_throughput_is_measured_where_ansor_asks(tmp_path, capsys):
    result = tmp_path / "throughput.json"
    arguments = ["bench", "throughput", "--workload", WORKLOAD, "--batches", "16", "64"]
    assert main([*arguments, "--repeats", "1", "--json", str(result)]) == 0
    data = json.loads(result.read_text())
    assert set(data["predict_speedup"]) == {"16", "64"}
    assert all(ratio > 0 for ratio in data["predict_speedup"].values())
    assert data["array_candidates_per_second"] > 100
    assert 0 < data["first_score_seconds"] < 120
    assert 2**26 < data["peak_memory_bytes"] < 2**35
    assert all(0 < share <= 1 for share in data["distinct_beginnings"].values())
    assert "from arrays" in capsys.readouterr().out


def test_beginnings_that_schedules_share_are_counted_once():
    a, b, c = (Step("SP", (0, 0, 64, (number,), 1)) for number in (1, 2, 4))
    assert distinct_beginnings([(a, b, c)]) == 1
    assert distinct_beginnings([(a, b, c), (a, b, a), (b, b)]) == 6 / 8
    assert distinct_beginnings([(a, b), (a, b), (a,), ()]) == 2 / 5
