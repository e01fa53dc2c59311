"""The command line: what it writes, and what it says of bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cwm_jax import load_records
from cwm_jax.cli.main import main
from cwm_jax.records.ansor_log import append_records, format_line
from cwm_jax.records.graph import read_graphs
from cwm_jax.training.dataset import split_workloads

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, measured_log):
    """A checkpoint, which no test changes."""
    out = tmp_path_factory.mktemp("trained") / "checkpoint"
    arguments = ["train", str(measured_log), "--hardware", "cpu-x86-2core", "--out", str(out)]
    summary = out.with_name("train.json")
    assert main([*arguments, "--epochs", "2", "--json", str(summary)]) == 0
    return out


def test_train_eval_and_score_work_together(trained, tmp_path, measured_log, capsys):
    card = json.loads((trained / "card.json").read_text())
    assert card["data"][0]["file"] == measured_log.name
    assert len(card["data"][0]["sha256"]) == 64
    assert card["workloads"]["with_graph"] > 0
    curves = (trained / "curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in curves] == [1, 2]
    summary = json.loads(trained.with_name("train.json").read_text())
    assert summary["records"]["valid"] == len(load_records(measured_log, valid_only=True))

    result = tmp_path / "eval.json"
    arguments = ["eval", str(measured_log), "--checkpoint", str(trained)]
    report = tmp_path / "report"
    more = ["--include-training", "--json", str(result), "--report", str(report)]
    assert main([*arguments, *more]) == 0
    text = (report / "report.md").read_text()
    pictures = re.findall(r"!\[.*\]\((.*\.png)\)", text)
    assert len(pictures) == 5
    assert all((report / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    data = json.loads(result.read_text())
    measures = {"top1", "top5", "pairwise", "spearman", "spearman_fast"}
    assert set(data["overall"]) == {"candidates"} | measures
    assert abs(data["random"]["pairwise"] - 0.5) < 0.05
    assert "random ranking" in capsys.readouterr().out

    scores = tmp_path / "scores.jsonl"
    arguments = ["score", str(measured_log), "--checkpoint", str(trained), "--out", str(scores)]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in scores.read_text().splitlines()]
    records = load_records(measured_log)
    assert [line["workload_key"] for line in lines] == [r.workload_key for r in records]
    assert len({line["score"] for line in lines}) > len(lines) // 2


def test_eval_leaves_out_what_was_trained_on(trained, tmp_path, measured_log):
    split = json.loads((trained / "card.json").read_text())["split"]
    result = tmp_path / "eval.json"
    code = main(["eval", str(measured_log), "--checkpoint", str(trained), "--json", str(result)])
    if not split["test"]:
        assert code == 2
    else:
        assert len(json.loads(result.read_text())["workloads"]) == len(split["test"])


def test_other_devices_are_trained_on_but_for_held_out_workloads(tmp_path, measured_log):
    losses, cards = [], []
    for also in ([], ["--also", f"cuda-v100={measured_log}"]):
        out = tmp_path / f"checkpoint{len(losses)}"
        arguments = ["train", str(measured_log), "--hardware", "cpu-x86-2core", "--epochs", "1"]
        assert main([*arguments, "--out", str(out), *also]) == 0
        losses.append(json.loads((out / "curves.jsonl").read_text())["loss"])
        cards.append(json.loads((out / "card.json").read_text()))
    assert losses[0] != losses[1]
    split = cards[1]["split"]
    assert set(split["other_devices"]) == set(split["train"])
    assert split["test"]


def test_a_teacher_makes_one_model_of_its_ensemble(trained, tmp_path, measured_log, capsys):
    arguments = ["train", str(measured_log), "--hardware", "cpu-x86-2core", "--epochs", "1"]
    out = tmp_path / "taught"
    assert main([*arguments, "--teacher", str(trained), "--out", str(out)]) == 0
    assert "flatter" not in capsys.readouterr().err
    card = json.loads((out / "card.json").read_text())
    assert card["model"]["members"] == 1
    assert card["taught_by"] == str(trained)
    assert card["test_workloads_known_before"] == 0
    # By another seed, test workloads are among those that the teacher was trained on.
    other = [*arguments, "--seed", "1", "--teacher", str(trained), "--out", str(out)]
    assert main(other) == 0
    known = json.loads((out / "card.json").read_text())["test_workloads_known_before"]
    assert known > 0
    assert f"trained on {known} of the" in capsys.readouterr().err


def test_a_checkpoint_ranks_for_another_device_when_asked(trained, tmp_path, measured_log, capsys):
    arguments = ["score", str(measured_log), "--checkpoint", str(trained)]
    written = []
    for hardware in ([], ["--hardware", "cpu-x86-2core"], ["--hardware", "cuda-v100"]):
        out = tmp_path / f"scores{len(written)}.jsonl"
        assert main([*arguments, *hardware, "--out", str(out)]) == 0
        written.append(out.read_text())
    assert written[0] == written[1] != written[2]
    assert main([*arguments, "--hardware", "abacus", "--out", str(tmp_path / "none")]) == 2
    assert "known are" in capsys.readouterr().err


@pytest.mark.parametrize("workloads", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_a_log_of_few_workloads_trains_and_says_that_it_cannot_judge(
    tmp_path, measured_log, capsys, workloads, stream
):
    records = load_records(measured_log)
    keys = [*dict.fromkeys(record.workload_key for record in records)]
    log, out = tmp_path / "log.jsonl", tmp_path / "out"
    arguments = ["train", str(log), "--hardware", "cpu-x86-2core", "--epochs", "1"]
    arguments += ["--out", str(out), *(["--stream", str(tmp_path)] if stream else [])]
    # A workload that the split would hold out, alone or beside another.
    seed = next(
        seed
        for seed in range(10_000)
        if not split_workloads(keys[:workloads], test=0.15, seed=seed).train
    )
    append_records(log, [r for r in records if r.workload_key in keys[:workloads]])
    assert main([*arguments, "--seed", str(seed)]) == 0
    split = json.loads((out / "card.json").read_text())["split"]
    assert (len(split["train"]), len(split["test"])) == (1, workloads - 1)
    told = " ".join(capsys.readouterr().err.split())
    assert ("too small for a test set" in told) == (workloads == 1)
    assert ("not judged" in told) == (workloads == 1)
    assert "nan" not in told


def failed_log(path: Path, measured_log: Path) -> Path:
    line = format_line(load_records(measured_log)[0])
    head, _, tail = line.partition('"r": [[')
    path.write_text(f'{head}"r": [[1e+10], 4, {tail.split(", ", 2)[2]}\n')
    assert not load_records(path)[0].valid
    return path


TRAIN = ["train", "LOG", "--hardware", "cpu-x86-2core", "--out", "out"]


@pytest.mark.parametrize("command", [TRAIN, ["eval", "LOG"]])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such log"),
        ("empty", "it is empty"),
        ("binary", "no readable tuning record"),
        ("failed", "holds no valid measurement"),
    ],
)
def test_bad_logs(command, kind, says, tmp_path, measured_log, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log.jsonl"
    if kind == "empty":
        log.write_text("")
    elif kind == "binary":
        log.write_bytes(bytes(range(256)) * 20)
    elif kind == "failed":
        failed_log(log, measured_log)
    assert main([str(log) if word == "LOG" else word for word in command]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert str(log) in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tune", "--workload", "gemm:1"], "unknown workload 'gemm'"),
        (["tune", "--workload", "matmul:0,1,1"], "expected an integer >= 1"),
        (["tune", "--workload", "matmul:8,8,8", "--target", "nonsense"], "unknown target"),
        (["tune", "--workload", "matmul:8,8,8", "--checkpoint", "none"], "no such checkpoint"),
        (["tune", "--workload", "matmul:8,8,8", "--resume", "none"], "none: no such log"),
        (["tune", "--workload", "matmul:8,8,8", "--log", "taken"], "taken exists"),
        (["tune", "--workload", "matmul:8,8,8", "--confirm", "64"], "leaves none of 64 trials"),
        (["eval", "taken", "--checkpoint", "none"], "no such checkpoint"),
        (["score", "none", "--out", "x"], "none: no such log"),
        (["train", "taken", "--hardware", "abacus", "--out", "x"], "unknown hardware 'abacus'"),
    ],
)
def test_bad_usage_is_one_sentence_and_code_2(arguments, says, tmp_path, monkeypatch, capsys, tvm):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert len(error.splitlines()) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["taken"]


def test_unknown_option_is_code_2():
    with pytest.raises(SystemExit) as caught:
        main(["tune", "--no-such-option"])
    assert caught.value.code == 2


def test_help_lists_the_workloads(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    text = capsys.readouterr().out
    assert "conv2d:N,H,W,CI,CO,KERNEL,STRIDE,PADDING" in text
    assert "FILE.py:FUNCTION" in text


def test_info_names_what_a_bug_report_needs(tmp_path, capsys):
    assert main(["info", "--json", str(tmp_path / "info.json")]) == 0
    facts = json.loads((tmp_path / "info.json").read_text())
    assert "host target llvm" in facts["ansor"]
    assert "llvm" in facts["metaschedule"]
    assert "cpu-x86-2core" in facts["checkpoints"]
    assert "jax" in capsys.readouterr().out


def test_tune_resume_and_json(tmp_path, monkeypatch):
    """The installed command, in a process of its own, on a user's own function."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from tvm import te\n"
        "def square(n):\n"
        "    a, k = te.placeholder((n, n), name='a'), te.reduce_axis((0, n), name='k')\n"
        "    return [a, te.compute((n, n), lambda i, j: te.sum(a[i, k] * a[k, j], axis=k))]\n"
    )
    command = [str(Path(sys.executable).parent / "cwm"), "tune", "--workload", "mine.py:square:32"]
    command += ["--round", "2", "--population", "64"]
    first = subprocess.run(
        [*command, "--trials", "2", "--log", "log.jsonl", "--json", "a.json"],
        capture_output=True,
        text=True,
    )
    assert first.returncode == 0, first.stderr
    assert "best latency" in first.stdout
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["trials"] == 2
    assert data["best_latency"] == pytest.approx(min(data["latencies"]), rel=1e-5)
    assert set(data["seconds"]) == {"search", "measure", "model"}
    assert data["target"].startswith("llvm")
    again = subprocess.run(
        [*command, "--trials", "4", "--resume", "log.jsonl", "--json", "b.json"],
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    resumed = json.loads((tmp_path / "b.json").read_text())
    # The log keeps six digits.
    assert resumed["latencies"][:2] == pytest.approx(data["latencies"], rel=1e-5)
    records = load_records(tmp_path / "log.jsonl")
    assert len(records) == 4
    graphs = read_graphs(tmp_path / "log.programs.jsonl")
    assert set(graphs) == {records[0].workload_key}
    assert sorted(e.name for e in tmp_path.iterdir() if not e.name.startswith("__")) == [
        "a.json",
        "b.json",
        "log.jsonl",
        "log.programs.jsonl",
        "mine.py",
    ]


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == "cwm 0.1.0"


def test_compiled_programs_are_kept_between_processes(tmp_path, measured_log):
    """The second process finds all that the first one compiled."""
    script = "import sys, cwm_jax; r = cwm_jax.load_records(sys.argv[1])[:8]; "
    script += "cwm_jax.Scorer.load('cpu-x86-2core').score(r)"
    command = [sys.executable, "-c", script, str(measured_log)]
    # In the cache that a user has, not in that of the tests.
    of_tests = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(of_tests)}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    kept = []
    for _ in range(2):
        subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
        kept.append({path.name for path in tmp_path.rglob("*-cache")})
    assert kept[0]
    assert kept[1] == kept[0]


@pytest.mark.parametrize("command", [["tune", "--workload", "matmul:8,8,8"], ["bench", "search"]])
@pytest.mark.parametrize("value", ["-1", "2147483648", "1.5"])
def test_seeds_that_tvm_cannot_hold_are_refused(command, value, capsys):
    option = "--seed" if command[0] == "tune" else "--seeds"
    with pytest.raises(SystemExit) as caught:
        main([*command, option, value])
    assert caught.value.code == 2
    assert f"argument {option}" in capsys.readouterr().err
