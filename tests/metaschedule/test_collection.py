"""Corpora of MetaSchedule: drawn, measured, resumed after a kill, measured again."""

import gzip
import math

import orjson
import pytest

from cwm_jax.cli.main import main
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import read_graphs
from cwm_jax.records.logs import load_records
from cwm_jax.records.metaschedule.trace import parse_trace
from cwm_jax.records.metaschedule.translate import translate_trace
from cwm_jax.tuning.collection import Mix
from cwm_jax.tuning.corpus import Corpus, TaskPlan, plan_tasks
from cwm_jax.tuning.measurement import MeasureConfig
from cwm_jax.tuning.metaschedule.candidates import draw_candidates
from cwm_jax.tuning.metaschedule.collection import ModuleTasks
from cwm_jax.tuning.metaschedule.measure import MetaScheduleDevice
from cwm_jax.workloads.networks import Network
from cwm_jax.workloads.parse import parse_workload


def test_a_corpus_grows_resumes_after_a_kill_and_is_measured_again(tmp_path):
    corpus = Corpus(tmp_path / "corpus")
    # The machine that runs the tests need not be steady.
    collect = ["collect", "--engine", "metaschedule", "--tolerance", "1e9"]
    collect += ["--out", str(corpus.folder)]
    # From the second round on, some are what XGBModel finds.
    collect += ["--workloads", "dense:8,16,32", "--round", "3", "--checkpoint", "cpu-x86-zen4"]
    assert main([*collect, "--records", "3"]) == 0
    records = load_records(corpus.records)
    assert len(records) == 3
    assert all(record.valid and len(record.costs) == 3 for record in records)

    whole = corpus.records.read_bytes()
    assert main([*collect, "--records", "6"]) == 0
    corpus.records.write_bytes(corpus.records.read_bytes()[:-20])  # a kill in the last round
    assert main([*collect, "--records", "6"]) == 0
    assert corpus.records.read_bytes().startswith(whole)
    grown = load_records(corpus.records)
    assert len({record.steps for record in grown}) == len(grown) == 6

    (graph,) = read_graphs(corpus.graphs).values()
    lines = gzip.decompress((corpus.folder / "traces.jsonl.gz").read_bytes()).splitlines()
    kept = {
        translate_trace(parse_trace(found[0]), graph): found[1]
        for key, found in map(orjson.loads, lines)
        if key == graph.workload_key
    }
    assert {record.steps: list(record.costs) for record in grown}.items() <= kept.items()

    # XGBModel learns from it before a search, and from the search.
    tune = ["tune", "--engine", "metaschedule", "--workload", "dense:8,16,64", "--round", "2"]
    tune += ["--cost-model", "xgboost", "--pretrain", str(corpus.folder), "--trials", "4"]
    assert main([*tune, "--population", "32", "--log", str(tmp_path / "search")]) == 0
    assert len(load_records(tmp_path / "search" / "records.jsonl")) == 4

    assert main([*collect[:7], "--remeasure", "4"]) == 0
    again = load_records(corpus.remeasured)
    assert len(again) == 4
    assert all(record.valid for record in again)
    assert {record.steps for record in again} <= {record.steps for record in grown}


def test_candidates_are_new(tvm, target, create_task):
    task = create_task("dense:16,96,128")
    scorer = Scorer.load("cpu-x86-2core")

    def draw(known):
        return draw_candidates(
            tvm, task.module, task.graph, target, Mix(4, 4, 8), 7, scorer=scorer, known=known
        )

    first = draw(set())
    assert len(first) == 16
    assert not set(draw(set(first))) & set(first)


def test_modules_survive_the_file(tvm, target):
    plan = TaskPlan(
        networks=(Network("mlp", 1),),
        workloads=(("matmul:8,8,8", parse_workload("matmul:8,8,8")),),
    )
    tasks = plan_tasks(ModuleTasks(tvm, target), plan)
    assert {name for task in tasks for name in task.occurrences} == {"mlp:1,NHWC", "matmul:8,8,8"}
    assert len(tasks) == 5
    from cwm_jax.tvm_bridge.metaschedule.cost_model import workload_key

    for task in tasks:
        assert workload_key(tvm.ir.load_json(task.tensors)) == task.workload_key


def test_a_result_is_scaled_and_a_failure_is_not(tvm):
    target = tvm.target.Target({"kind": "llvm", "num-cores": 2})
    device = MetaScheduleDevice(tvm, target, MeasureConfig(repeat=2, min_repeat_ms=1))
    built = device.build([device.reference])
    (result,) = device.run([device.reference], built)
    assert 0 < device.latency(result) < 1
    half = device.scaled(result, 0.5)
    assert device.latency(half) == pytest.approx(device.latency(result) / 2)
    assert len(half.run_secs) == 2
    device.discard(built[0])
    (failed,) = device.run([device.reference], built)
    assert device.scaled(failed, 0.5) is failed
    assert math.isinf(device.latency(failed))
