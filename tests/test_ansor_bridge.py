"""The world model inside real Ansor searches on this machine."""

import dataclasses
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cwm_jax import load_records
from cwm_jax.errors import RecordError
from cwm_jax.features.batch import split_step
from cwm_jax.features.step_features import Replay, StepFeatures
from cwm_jax.ranking import task_ranker
from cwm_jax.ranking.catalog import PairingWarning
from cwm_jax.ranking.online import TrustWarning
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import append_records, format_line
from cwm_jax.search.planner import PlannerConfig
from cwm_jax.tuning import loop
from cwm_jax.tuning.ansor.engine import AnsorEngine
from cwm_jax.tuning.ansor.planned_search import PlannedSearch
from cwm_jax.tuning.ansor.search import resumable_records
from cwm_jax.tuning.ansor.tasks import create_task
from cwm_jax.tuning.measurement import TuningConfig, reference_path
from cwm_jax.tuning.reference import append_reference, read_reference
from cwm_jax.tvm_bridge.ansor import WorldModelCostModel
from cwm_jax.tvm_bridge.ansor.cost_model import schedules_of_states
from cwm_jax.tvm_bridge.ansor.graphs import as_measured, graph_of_task, latency_of
from cwm_jax.workloads.parse import parse_workload

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[1]
WORKLOAD = "matmul:64,64,64"
COMPUTED_AT_ROOT = 0  # `ComputeAtKind::kRoot`: no bound inference shrinks its loops


def _small(**settings: Any) -> TuningConfig:
    """Of a search that imagines little, for it measures little."""
    return TuningConfig(population=64, **settings)


def tune_task(tvm, task, config: TuningConfig, log: Path, **options: Any) -> loop.TuningResult:
    engine = AnsorEngine(tvm, task.target)
    return loop.tune_task(engine, engine.task(task), config, log, **options)


@pytest.fixture(scope="module")
def scorer():
    return Scorer.load("cpu-x86-2core")


@pytest.fixture(scope="module")
def task(tvm):
    return create_task(tvm, parse_workload(WORKLOAD), "llvm -mcpu=core-avx2 -num-cores=2")


@pytest.fixture(scope="module")
def states(tvm, task):
    policy = tvm.auto_scheduler.SketchPolicy(task, verbose=0, seed=1)
    return list(policy.sample_initial_population())


def test_states_become_their_own_steps(tvm, task, states):
    schedules = schedules_of_states(task, states)
    assert [len(schedule) for schedule in schedules] == [len(s.transform_steps) for s in states]
    result = tvm.auto_scheduler.measure.MeasureResult([1.0], 0, "", 0.1, 0)
    for state, schedule in zip(states[:5], schedules, strict=False):
        measured = tvm.auto_scheduler.measure.MeasureInput(task, state)
        line = tvm.auto_scheduler.measure_record.dump_record_to_string(measured, result)
        assert f"[[], {_steps_json(schedule)}]" in str(line)


def _steps_json(schedule) -> str:
    fields = [[step.kind, *step.fields] for step in schedule]
    return re.sub(r"\((.*?),?\)", r"[\1]", str(fields)).replace("'", '"')


def test_bookkeeping_agrees_with_ansor_on_stages_and_loops(tvm, scorer):
    """Replays real states without TVM and compares every loop with Ansor's own."""
    compared = 0
    for text in (WORKLOAD, "conv2d:1,14,14,8,16,3,1,1", "softmax:32,64", "matmul:4,4,4096"):
        task = create_task(tvm, parse_workload(text), "llvm -mcpu=core-avx2 -num-cores=2")
        graph = graph_of_task(tvm, task)
        policy = tvm.auto_scheduler.SketchPolicy(task, verbose=0, seed=2)
        sampled = list(policy.sample_initial_population())
        for state, schedule in zip(sampled, schedules_of_states(task, sampled), strict=True):
            pieces = [split_step(step) for step in schedule]
            numbers = [number for _, part in pieces for number in part]
            features = StepFeatures.empty(1, len(schedule))
            replay = Replay(graph, np.array([numbers], np.float64), features)
            for at, (shape, _) in enumerate(pieces):
                replay.apply(at, shape)
            assert len(state.stages) == len(replay.state.nests)
            for stage, nest in zip(state.stages, replay.state.nests, strict=True):
                if not nest.loops:
                    continue  # a placeholder, whose loops no step addresses
                assert len(stage.iters) == len(nest.loops), (text, schedule)
                if int(stage.compute_at) == COMPUTED_AT_ROOT:
                    extents = [int(loop.range.extent) for loop in stage.iters]
                    assert extents == [int(loop.extent[0]) for loop in nest.loops], (text, schedule)
                    compared += len(extents)
    assert compared > 500


def test_scores_are_finite_and_tell_states_apart(task, states, scorer):
    scores = WorldModelCostModel(scorer).predict(task, states)
    assert scores.shape == (len(states),)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > len(states) // 2
    assert WorldModelCostModel(scorer).predict(task, []).shape == (0,)


def test_stage_scores_are_packed_without_a_breakdown(task, states, scorer):
    model = WorldModelCostModel(scorer)
    packed = model.predict_stages(task, states)
    np.testing.assert_array_equal(packed[: len(states)], model.predict(task, states))
    assert not packed[len(states) :].any()
    assert packed.shape == (2 * len(states),)


@pytest.mark.parametrize("search", ["evolutionary", "planner"])
def test_a_search_measures_logs_and_resumes(tvm, task, scorer, tmp_path, search):
    log = tmp_path / "log.jsonl"
    rounds = []
    config = _small(trials=6, round_size=3, min_repeat_ms=10, search=search)
    result = tune_task(tvm, task, config, log, scorer=scorer, report=rounds.append)
    assert len(result.latencies) == 6
    assert math.isfinite(min(result.latencies))
    assert result.best is not None
    assert result.best.latency == pytest.approx(min(result.latencies), rel=1e-5)
    assert [done.trials for done in rounds] == [3, 6]
    assert all(done.measure_seconds > 0 and done.model_seconds > 0 for done in rounds)
    assert all(done.search_seconds >= 0 for done in rounds)
    assert "C" in result.schedule

    with log.open("a") as file:
        file.write('{"i": [["cut off')  # a process killed while it wrote
    earlier = resumable_records(log, [task.workload_key], str(task.target))
    assert len(earlier) == 6
    more = _small(trials=9, round_size=3, min_repeat_ms=10, search=search)
    resumed = tune_task(tvm, task, more, log, scorer=scorer, resume=True)
    assert len(resumed.latencies) == 9
    assert resumed.latencies[:6] == pytest.approx(result.latencies, rel=1e-5)
    with pytest.warns(UserWarning, match="1 lines skipped"):
        records = load_records(log)
    assert len({format_line(r).split('"r"')[0] for r in records}) == 9  # none measured twice


def test_a_log_of_several_searches_keeps_all_and_the_best_is_of_its_own(measured_log, tmp_path):
    records = load_records(measured_log)
    own = records[0]
    others = [r for r in records if r.workload_key != own.workload_key][:3]
    faster = dataclasses.replace(own, target="cuda -arch=sm_70", costs=(1e-8,))
    log = tmp_path / "log.jsonl"
    append_records(log, [*others, own, faster])
    text = log.read_bytes()[:-1]
    log.write_bytes(text)  # as an editor may leave it
    found = resumable_records(log, [own.workload_key], own.target)
    assert found == [own]
    assert log.read_bytes() == text + b"\n"
    packed = tmp_path / "packed.jsonl"
    packed.write_bytes(measured_log.read_bytes())
    with pytest.raises(RecordError, match="cannot be added to, unpack it by `gunzip`"):
        resumable_records(packed, [own.workload_key], own.target)
    assert packed.read_bytes() == measured_log.read_bytes()


@pytest.mark.parametrize("search", ["evolutionary", "planner"])
def test_any_seed_and_any_population_search(tvm, scorer, tmp_path, search):
    """TVM's seeds have 31 bits, and it gives up where all states of a sample are invalid."""
    task = create_task(tvm, parse_workload("transpose_batch_matmul:1,16,2,8"), "llvm -num-cores=2")
    config = TuningConfig(population=1, trials=2, search=search, seed=2**31 - 1, min_repeat_ms=1)
    result = tune_task(tvm, task, config, tmp_path / "log.jsonl", scorer=scorer)
    assert len(result.latencies) == 2


@pytest.mark.parametrize("search", ["evolutionary", "planner"])
def test_a_search_measures_between_references(tvm, task, scorer, tmp_path, search):
    log, other = tmp_path / "log.jsonl", tmp_path / "other.jsonl"
    config = _small(
        trials=7, round_size=3, min_repeat_ms=10, search=search, confirm=2, reference_every=2
    )
    result = tune_task(tvm, task, config, log, scorer=scorer)
    assert all(math.isfinite(latency) for latency in result.latencies)
    records = load_records(log)
    assert [record.latency for record in records] == pytest.approx(result.latencies, rel=1e-5)
    assert {len(record.costs) for record in records} == {3}
    runs = read_reference(reference_path(log))
    assert sum(run.kept for run in runs) >= 2 + 1 + 1 or not all(run.accepted for run in runs)
    assert runs[0].kept <= 2 < len(runs[0].latencies)  # three candidates in groups of two
    assert len({run.level for run in runs}) == 1
    # What the level says a search is scaled to: here, to a machine so slow that no disturbance
    # of this one comes near.
    slower = dataclasses.replace(runs[0], level=1000 * runs[0].level)
    append_reference(reference_path(other), slower)
    scaled = tune_task(tvm, task, config, other, scorer=scorer)
    assert {run.level for run in read_reference(reference_path(other))} == {slower.level}
    assert 100 < min(scaled.latencies) / min(result.latencies) < 10_000

    more = dataclasses.replace(config, trials=9, reference_every=None)
    with pytest.raises(RecordError, match="add --reference-every"):
        tune_task(tvm, task, more, log, scorer=scorer, resume=True)


@pytest.mark.parametrize("search", ["evolutionary", "planner"])
def test_the_best_are_measured_again_at_the_end(tvm, task, scorer, tmp_path, search):
    log = tmp_path / "log.jsonl"
    config = _small(trials=8, round_size=4, min_repeat_ms=10, search=search, confirm=4)
    result = tune_task(tvm, task, config, log, scorer=scorer)
    assert [len(done.latencies) for done in result.rounds] == [4, 2, 2]
    assert [done.confirming for done in result.rounds] == [False, True, True]
    records = load_records(log)
    assert [record.latency for record in records] == pytest.approx(result.latencies, rel=1e-5)
    ordered = sorted(records[:4], key=lambda record: record.latency)
    finalists = {record.steps for record in ordered[:2]}
    assert {record.steps for record in records[4:6]} == finalists
    assert {record.steps for record in records[6:]} == finalists
    assert result.best is not None
    assert len(result.best.costs) == 3
    assert result.best.steps in finalists
    assert "C" in result.schedule

    more = dataclasses.replace(config, trials=12)
    resumed = tune_task(tvm, task, more, log, scorer=scorer, resume=True)
    assert [done.confirming for done in resumed.rounds] == [True, True]
    assert len(load_records(log)) == 12


def test_a_plan_holds_what_tvm_accepts_and_nothing_twice(tvm, scorer, monkeypatch):
    """On two sketches with fused consumers: what is imagined there must still be a program."""
    monkeypatch.setattr(task_ranker, "shipped_scorers", lambda *_: [])  # none takes over
    for text in ("conv2d_bias_relu:1,14,14,16,32,3,1,1", "softmax:64,128"):
        task = create_task(tvm, parse_workload(text), "llvm -mcpu=core-avx2 -num-cores=2")
        model = WorldModelCostModel(scorer)
        measured = []

        def measure(inputs, measured=measured):
            measured.extend(inputs)
            result = tvm.auto_scheduler.measure.MeasureResult
            return [result([1e-3 / (1 + len(measured))], 0, "", 0.1, 0) for _ in inputs]

        search = PlannedSearch(tvm, task, model, measure, 0, PlannerConfig(256, 2))
        # The draws of the first round tell that the model, here, is no better.
        with pytest.warns(TrustWarning):
            rounds = [search.round(8) for _ in range(2)]
        assert [len(found.inputs) for found in rounds] == [8, 8]
        assert model.online.trusted(task.workload_key) is False
        assert len({str(item.state) for item in measured}) == 16
        for found in rounds:
            assert found.imagined > 100
            assert found.rejected <= 0.1 * found.proposed
        for item in measured:
            schedule, args = task.compute_dag.apply_steps_from_state(item.state)
            tvm.lower(schedule, args)


def test_a_plan_begins_anew_with_the_model_that_takes_over(tvm, scorer, task, monkeypatch):
    """What is measured is ordered by another model, but too level for any choice to stand out."""
    other = Scorer.load("cpu-x86-zen5")
    monkeypatch.setattr(task_ranker, "shipped_scorers", lambda *_: [other])
    model = WorldModelCostModel(scorer)
    graph = model.graph(task)
    batches = []

    def measure(inputs):
        schedules = schedules_of_states(task, [item.state for item in inputs])
        batches.append(schedules)
        score = other.rank_schedules(graph, schedules).score
        place = np.argsort(np.argsort(-score))
        result = tvm.auto_scheduler.measure.MeasureResult
        return [result([1e-3 * (1 + at / 1000)], 0, "", 0.1, 0) for at in place.tolist()]

    search = PlannedSearch(tvm, task, model, measure, 0, PlannerConfig(256, 2))
    search.round(8)
    assert model.online.scorer_of(task.workload_key) is scorer
    with pytest.warns(TrustWarning, match="that for cpu-x86-zen5 is tried"):
        search.round(8)
    assert model.online.scorer_of(task.workload_key) is other
    first, second = batches
    assert not set(first) & set(second)
    sampled = search.space.sample(many=True)
    typical = np.median(other.rank_schedules(graph, sampled).score)
    assert np.median(other.rank_schedules(graph, second).score) > typical


def test_a_log_of_another_workload_is_not_resumed(measured_log, task, tmp_path):
    log = tmp_path / "log.jsonl"
    append_records(log, load_records(measured_log))
    with pytest.raises(RecordError, match="cannot resume"):
        resumable_records(log, [task.workload_key], str(task.target))


@pytest.mark.parametrize("name", ["xgboost", "random"])
def test_other_cost_models_search_too(tvm, task, tmp_path, name):
    config = _small(trials=4, round_size=2, cost_model=name, min_repeat_ms=10)
    result = tune_task(tvm, task, config, tmp_path / "log.jsonl")
    assert len(result.latencies) == 4


@pytest.mark.parametrize(
    "text",
    [
        "dense:4,32,32",
        "batch_matmul:2,16,16,16",
        "conv2d:1,8,8,4,8,3,1,1",
        "conv2d:1,8,8,4,8,3,1,1,NCHW",
        "depthwise_conv2d:1,8,8,8,3,1,1",
        "softmax:16,32",
    ],
)
def test_every_operator_builds_and_runs(tvm, scorer, tmp_path, text):
    task = create_task(tvm, parse_workload(text), "llvm -mcpu=core-avx2 -num-cores=2")
    config = _small(trials=2, round_size=2, min_repeat_ms=5)
    result = tune_task(tvm, task, config, tmp_path / "log.jsonl", scorer=scorer)
    assert result.first_error == ""
    assert all(math.isfinite(latency) for latency in result.latencies)


def test_a_failing_build_is_reported_with_its_reason(tvm, task, scorer, tmp_path):
    config = _small(trials=2, round_size=2, build_timeout=0)
    result = tune_task(tvm, task, config, tmp_path / "log.jsonl", scorer=scorer)
    assert result.best is None
    assert result.first_error.startswith("error ")
    assert [r.valid for r in load_records(tmp_path / "log.jsonl")] == [False, False]


def test_measurements_change_the_ranking_of_their_workload_and_device_only(
    tvm, task, scorer, measured_log, tmp_path
):
    model = WorldModelCostModel(scorer)
    records = load_records(measured_log)
    workloads = sorted({r.workload_key for r in records if '["matmul"' in r.workload_key})
    key = workloads[0]
    text = "matmul:" + ",".join(re.findall(r"\d+", key)[:3])
    target = "llvm -mcpu=icelake-server -num-cores=2"
    registered = create_task(tvm, parse_workload(text), target)
    assert registered.workload_key == key
    one_core = tvm.auto_scheduler.HardwareParams(1, 64, 64, 0, 0, 0, 0, 0)  # as in the log
    measured = tvm.auto_scheduler.SearchTask(
        workload_key=key, target=target, hardware_params=one_core
    )
    candidates = list(
        tvm.auto_scheduler.SketchPolicy(measured, verbose=0, seed=3).sample_initial_population()
    )
    before = model.predict(measured, candidates)
    model.update_from_file(str(measured_log))
    after = model.predict(measured, candidates)
    assert not np.array_equal(after, before)
    others = list(
        tvm.auto_scheduler.SketchPolicy(task, verbose=0, seed=3).sample_initial_population()
    )
    fresh = WorldModelCostModel(scorer).predict(task, others)
    np.testing.assert_array_equal(model.predict(task, others), fresh)

    # Lines of other devices under the same keys change nothing, whenever they are read.
    foreign = tmp_path / "mixed.jsonl"
    others = [("cuda -arch=sm_70", (-1, 16, 64, 49152, 2147483647, 1024, 8, 32))]
    others.append((records[0].target, (64, *records[0].task.hardware_parameters[1:])))
    append_records(
        foreign,
        [
            dataclasses.replace(
                record,
                target=target,
                task=dataclasses.replace(record.task, hardware_parameters=parameters),
                costs=(1e-7 / record.latency,),
            )
            for record in records
            for target, parameters in others
        ],
    )
    append_records(foreign, records)
    mixed = WorldModelCostModel(scorer)
    mixed.update_from_file(str(foreign))
    with pytest.warns(PairingWarning, match="544 measurements are of other devices"):
        np.testing.assert_array_equal(mixed.predict(measured, candidates), after)


@pytest.mark.parametrize(
    "costs", [[0.0], [-1.0], [math.nan], [math.inf], [], [1e10], [1e-3, math.nan]]
)
def test_a_latency_that_is_none_counts_as_failed(tvm, task, scorer, states, costs):
    def result(costs, error=0):
        return tvm.auto_scheduler.measure.MeasureResult(costs, error, "", 0.1, 1.0)

    some = states[:8]
    inputs = [tvm.auto_scheduler.MeasureInput(task, state) for state in some]
    rest = [result([1e-3 * (at + 1)]) for at in range(7)]
    scores = []
    for last in (result(costs), result([1e10], 4)):
        model = WorldModelCostModel(scorer)
        model.update(inputs, [*rest, last])
        assert model.online.measured[task.workload_key][-1][1] == math.inf
        assert latency_of(last) == math.inf
        assert int(as_measured(tvm.auto_scheduler, last).error_no) != 0
        scores.append(model.predict(task, some))
    assert np.isfinite(scores[0]).all()
    np.testing.assert_array_equal(*scores)


SMALLER = """\
    FEW = dict(auto_scheduler.SketchPolicy.DEFAULT_PARAMS, evolutionary_search_population=64)
"""


def test_the_readme_snippet_tunes(tmp_path):
    """Runs the very lines of the README, in a user's own script."""
    readme = (ROOT / "README.md").read_text()
    snippet = re.search(r"<!-- snippet -->\s*```python\n(.*?)```", readme, re.DOTALL)
    assert snippet is not None
    script = tmp_path / "script.py"
    script.write_text(
        snippet[1]
        .replace("num_measure_trials=64", "num_measure_trials=4, num_measures_per_round=2")
        .replace('"tune.json"', f'"{tmp_path / "tune.json"}"')
        # Of a search that measures little.
        .replace("SketchPolicy(task, model)", "SketchPolicy(task, model, params=FEW)")
        .replace("    model = World", f"{SMALLER}    model = World")
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(load_records(tmp_path / "tune.json")) == 4


def test_one_model_serves_a_task_scheduler(tvm, scorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # TVM writes total_latency.tsv where it runs
    ansor = tvm.auto_scheduler
    target = tvm.target.Target("llvm -mcpu=core-avx2 -num-cores=2")
    tasks = [create_task(tvm, parse_workload(f"matmul:{n},32,32"), target) for n in (32, 64)]
    model = WorldModelCostModel(scorer)
    scheduler = ansor.TaskScheduler(tasks)
    options = ansor.TuningOptions(
        num_measure_trials=8,
        num_measures_per_round=2,
        measure_callbacks=[ansor.RecordToFile(str(tmp_path / "log.jsonl"))],
        verbose=0,
    )
    few = {**ansor.SketchPolicy.DEFAULT_PARAMS, "evolutionary_search_population": 64}
    policies = [ansor.SketchPolicy(task, model, params=few, verbose=0) for task in tasks]
    scheduler.tune(options, search_policy=policies)
    records = load_records(tmp_path / "log.jsonl")
    assert len(records) == 8
    assert {r.workload_key for r in records} == {t.workload_key for t in tasks}


@pytest.mark.parametrize("wait", [0.5, 4])  # in the search, and while programs are measured
def test_ctrl_c_keeps_the_finished_rounds(tmp_path, wait):
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-m", "cwm_jax.cli.main", "tune", "--workload", WORKLOAD]
    command += ["--trials", "2000", "--round", "4", "--population", "64", "--log", str(log)]
    # A terminal sends Ctrl-C to the whole group, the builder's processes included.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2
    assert f"--resume {log}" in errors
    assert "Traceback" not in errors
    found = load_records(log)
    assert found
    assert len(found) % 4 == 0
    assert all(record.valid for record in found)
