"""Collecting a corpus: real candidates, built and run on this machine."""

import dataclasses
import functools
import gzip
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cwm_jax import load_records
from cwm_jax.cli.main import main
from cwm_jax.errors import CorpusError
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import read_graphs
from cwm_jax.tuning.ansor.collection import draw_candidates
from cwm_jax.tuning.ansor.measure import AnsorDevice
from cwm_jax.tuning.ansor.relay import network_tasks
from cwm_jax.tuning.ansor.tasks import AnsorTasks, create_task, search_task
from cwm_jax.tuning.collection import Mix, mix_of_round, open_corpus
from cwm_jax.tuning.corpus import (
    HELD_OUT_NETWORKS,
    Corpus,
    TaskPlan,
    default_plan,
    plan_tasks,
    read_tasks,
    write_tasks,
)
from cwm_jax.tuning.measurement import MeasureConfig
from cwm_jax.tuning.reference import read_reference
from cwm_jax.workloads.networks import Network, parse_network
from cwm_jax.workloads.parse import parse_workload

pytestmark = pytest.mark.long
TARGET = "llvm -mcpu=core-avx2 -num-cores=2"


# The machine that runs the tests need not be steady: what a batch is worth is tested elsewhere.
LOUD = ["--tolerance", "1e9"]


def collect(out, *more: str) -> int:
    arguments = ["collect", "--out", str(out), "--workloads", "matmul:32,32,32", "softmax:16,32"]
    return main([*arguments, *LOUD, "--round", "3", "--checkpoint", "none", *more])


def test_the_other_workloads_go_on(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from tvm import te, topi\n\n"
        "def sorted_rows():\n"
        "    a = te.placeholder((8, 64), name='a')\n"
        "    return [a, topi.argsort(a)]\n"
    )
    out, bad = tmp_path / "corpus", f"{tmp_path}/mine.py:sorted_rows"
    arguments = ["collect", "--out", str(out), *LOUD, "--records", "1", "--checkpoint", "none"]
    assert main([*arguments, "--workloads", bad, "matmul:8,8,8"]) == 2
    assert [record.workload_key for record in load_records(Corpus(out).records)] == [
        '["matmul", 8, 8, 8, "float32"]'
    ]
    assert "sorted_rows: Ansor cannot tune it" in capsys.readouterr().err
    arguments[2] = str(tmp_path / "none")
    assert main([*arguments, "--workloads", bad]) == 2
    assert not Corpus(tmp_path / "none").records.exists()


def test_a_corpus_grows_resumes_after_a_kill_and_is_measured_again(tmp_path):
    out = tmp_path / "corpus"
    corpus = Corpus(out)
    assert collect(out, "--records", "3", "--json", str(tmp_path / "a.json")) == 0
    records = load_records(corpus.records)
    assert len(records) == 6
    assert all(record.valid and len(record.costs) == 3 for record in records)
    assert set(read_graphs(corpus.graphs)) == {record.workload_key for record in records}
    assert len({record.steps for record in records}) == 6
    assert json.loads((tmp_path / "a.json").read_text())["valid"] == 6

    whole = corpus.records.read_bytes()
    corpus.records.write_bytes(whole[:-20])  # a kill in the middle of the last round
    assert collect(out, "--records", "6") == 0
    grown = load_records(corpus.records)
    assert grown[:3] == records[:3]
    assert len(grown) == 12
    assert len({(record.workload_key, record.steps) for record in grown}) == 12

    history = read_reference(corpus.reference)
    assert len(history) == 2 + 3
    assert {run.level for run in history} == {history[0].level}
    assert 0 < history[0].level < 1
    assert main(["collect", "--out", str(out), *LOUD, "--remeasure", "4"]) == 0
    again = load_records(corpus.remeasured)
    assert len(again) == 4
    assert {record.steps for record in again} <= {record.steps for record in grown}

    tasks = read_tasks(corpus.tasks)
    more = ["--workloads", "softmax:16,32", "norm:1,16,16", "--round", "3", "--records", "3"]
    assert main(["collect", "--out", str(out), *LOUD, *more, "--checkpoint", "none"]) == 0
    assert read_tasks(corpus.tasks)[:2] == tasks
    assert len(read_tasks(corpus.tasks)) == 3
    assert len(read_graphs(corpus.graphs)) == 3
    assert load_records(corpus.records)[:12] == grown
    assert len(load_records(corpus.records)) == 15

    # What is not named waits, though it has fewer records than are asked for.
    some = ["--workloads", "norm:1,16,16", "--round", "4", "--records", "7"]
    assert main(["collect", "--out", str(out), *LOUD, *some, "--checkpoint", "none"]) == 0
    counts = Counter(record.workload_key for record in load_records(corpus.records))
    assert sorted(counts.values()) == [6, 6, 7]

    # An operator by itself counts as a network of its own name.
    ranking = ["eval", str(corpus.records), "--networks", "softmax", "lstm"]
    assert main([*ranking, "--json", str(tmp_path / "eval.json")]) == 0
    ranked = json.loads((tmp_path / "eval.json").read_text())["workloads"]
    softmax = [task for task in read_tasks(corpus.tasks) if "softmax:16,32" in task.occurrences]
    assert list(ranked) == [task.workload_key for task in softmax]
    assert main([*ranking[:3], "lstm"]) == 2


def test_hardware_is_never_mixed(tmp_path, capsys):
    out = tmp_path / "corpus"
    out.mkdir()
    Corpus(out).machine.write_text('{"target": "llvm", "cpu": "Z80", "cores": 1}')
    assert collect(out) == 2
    said = capsys.readouterr().err
    assert "collect into another folder" in said
    assert not Corpus(out).records.exists()


def test_bad_options(tmp_path, capsys):
    out = str(tmp_path / "corpus")
    assert main(["collect", "--out", out, "--networks", "alexnet"]) == 2
    assert "unknown network 'alexnet'" in capsys.readouterr().err
    assert main(["collect", "--out", out, "--networks", "vgg-16:0"]) == 2
    assert main(["collect", "--out", out, "--networks", "vgg-16:1,HWCN"]) == 2
    assert not (tmp_path / "corpus").exists()


def test_candidates_are_new_and_alike_for_one_seed(tvm):
    task = create_task(tvm, parse_workload("matmul:64,64,64"), TARGET)
    scorer = Scorer.load("cpu-x86-2core")

    def draw(seed: int, measured) -> list:
        return draw_candidates(tvm, task, Mix(4, 4, 8), seed, scorer=scorer, measured=measured)

    first = draw(0, ([], []))
    assert len({str(state) for state in first}) == 16
    assert [str(state) for state in draw(0, ([], []))] == [str(state) for state in first]
    inputs = [tvm.auto_scheduler.MeasureInput(task, state) for state in first]
    costs = np.linspace(1e-3, 2e-3, 16)
    results = [tvm.auto_scheduler.measure.MeasureResult([cost], 0, "", 0.1, 0) for cost in costs]
    second = draw(0, (inputs, results))
    assert not {str(state) for state in second} & {str(state) for state in first}


def test_the_mix_fills_the_round():
    for earlier, guided, boosted in itertools.product((0, 32), (True, False), (True, False)):
        mix = mix_of_round(earlier, 32, guided=guided, boosted=boosted)
        assert sum(dataclasses.astuple(mix)) == 32
        assert (mix.boosted > 0) == (earlier > 0 and guided and boosted)


def test_xgboost_finds_what_the_records_favour(tvm):
    task = create_task(tvm, parse_workload("matmul:64,64,64"), TARGET)
    random = functools.partial(draw_candidates, tvm, task, scorer=None)
    first = random(Mix(96, 0, 0), 0, measured=([], []))

    def unrolled(state) -> bool:
        return "auto_unroll: 512" in str(state)

    inputs = [tvm.auto_scheduler.MeasureInput(task, state) for state in first]
    results = [
        tvm.auto_scheduler.measure.MeasureResult([1e-3 if unrolled(state) else 2e-3], 0, "", 0.1, 0)
        for state in first
    ]
    found = random(Mix(0, 0, 0, boosted=16), 1, measured=(inputs, results))
    assert len(found) == 16
    assert not {str(state) for state in found} & {str(state) for state in first}
    assert np.mean([*map(unrolled, found)]) > 2 * np.mean([*map(unrolled, first)])


def test_tasks_survive_the_file(tvm, tmp_path):
    plan = TaskPlan(
        networks=(Network("mlp", 1), Network("mlp", 4)),
        workloads=(("matmul:8,8,8", parse_workload("matmul:8,8,8")),),
    )
    tasks = plan_tasks(AnsorTasks(tvm, tvm.target.Target(TARGET)), plan)
    assert {name for task in tasks for name in task.occurrences} == {
        "mlp:1,NHWC",
        "mlp:4,NHWC",
        "matmul:8,8,8",
    }
    path = tmp_path / "tasks.jsonl.gz"
    write_tasks(path, tasks)
    assert read_tasks(path) == tasks
    for task in tasks:
        searched = search_task(tvm, task)
        assert searched.workload_key == task.workload_key
        assert math.isclose(searched.compute_dag.flop_ct, task.flop)
    path.write_bytes(gzip.compress(b'{"workload_key": 3}\n'))
    with pytest.raises(CorpusError, match=r"tasks\.jsonl\.gz:1"):
        read_tasks(path)


@pytest.mark.parametrize(
    ("text", "flop"),
    [
        ("mobilenet-v1:1,NHWC", 0.57e9),
        ("mobilenet-v2:1,NCHW", 0.3e9),
        ("bert-tiny:1", 0.058e9),  # two layers of (12 * 128 + 2 * 128) * 128 * 128
        ("lstm:4", 0.134e9),  # 4 rows, 16 cells, 1024 x 2048 weights
    ],
)
def test_networks_have_the_arithmetic_that_their_papers_state(tvm, text, flop):
    """The papers count multiply-adds, TVM both."""
    tasks = network_tasks(tvm, parse_network(text), tvm.target.Target(TARGET))
    total = sum(float(task.compute_dag.flop_ct) * weight for task, weight in tasks)
    assert total == pytest.approx(2 * flop, rel=0.2)


def test_the_default_plan_holds_the_held_out_networks_whole():
    plan = default_plan()
    assert len(plan.whole_networks) == len(HELD_OUT_NETWORKS)
    assert set(plan.whole_networks) <= {str(network) for network in plan.networks}


def test_a_result_is_scaled_and_a_failure_is_not(tvm):
    target = tvm.target.Target(TARGET)
    device = AnsorDevice(tvm, target, MeasureConfig(repeat=2, min_repeat_ms=1))
    built = device.build([device.reference])
    (result,) = device.run([device.reference], built)
    assert 0 < device.latency(result) < 1
    half = device.scaled(result, 0.5)
    assert device.latency(half) == pytest.approx(device.latency(result) / 2)
    assert len(half.costs) == 2
    Path(str(built[0].filename)).write_bytes(b"no library")
    (failed,) = device.run([device.reference], built)
    assert math.isinf(device.latency(failed))
    assert device.scaled(failed, 0.5) is failed
    device.discard(built[0])


def test_a_corpus_without_its_tasks_is_refused(tmp_path):
    (tmp_path / "records.jsonl.gz").write_bytes(b"")
    (tmp_path / "machine.json").write_bytes(b"{}")
    with pytest.raises(CorpusError, match=r"no tasks\.jsonl\.gz; .* unpack tools/corpus"):
        open_corpus(None, tmp_path, {}, list)
