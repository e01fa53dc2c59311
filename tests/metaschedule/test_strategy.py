"""The planner as `strategy=` of TVM's own `tune_tir`."""

import importlib
import logging

import numpy as np
import pytest

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.metaschedule.database import iterate_database
from cwm_jax.tuning.loop import tune_task
from cwm_jax.tuning.measurement import TuningConfig
from cwm_jax.tuning.metaschedule.engine import MetaScheduleEngine
from cwm_jax.tvm_bridge.metaschedule import PlannerStrategy, local_builder
from cwm_jax.workloads.parse import parse_workload

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::cwm_jax.ranking.catalog.PairingWarning"),
    pytest.mark.filterwarnings("ignore::cwm_jax.ranking.online.TrustWarning"),
]
TRIALS, ROUND = 12, 4


@pytest.fixture(scope="module")
def scorer():
    return Scorer.load("cpu-x86-zen4")


@pytest.fixture(scope="module")
def task(tvm, target):
    (task,) = MetaScheduleEngine(tvm, target).tasks(parse_workload("matmul:128,128,128"))
    return task


def tuned(tvm, target, task, folder, strategy, cost_model, trials=TRIALS):
    """Tunes as a user's script does; returns the records of the database that TVM wrote."""
    ms = tvm.s_tir.meta_schedule
    # TVM formats the names of handlers that an earlier call left, and those have none.
    logging.getLogger(ms.__name__).handlers.clear()
    ms.tune_tir(
        task.handle,
        target,
        str(folder),
        max_trials_global=trials,
        num_trials_per_iter=ROUND,
        strategy=strategy,
        cost_model=cost_model,
        builder=local_builder(),
    )
    graph = task.graph
    return list(iterate_database(folder, {graph.workload_key: graph}, LogSummary()))


def learned(strategy, task):
    return strategy.cost_model.online.measured[task.workload_key]


@pytest.mark.parametrize("own", [True, False])
def test_it_searches_and_learns_whatever_cost_model_tvm_has(
    tvm, target, task, scorer, own, tmp_path
):
    strategy = PlannerStrategy(scorer, population=64)
    model = strategy.cost_model if own else tvm.s_tir.meta_schedule.cost_model.RandomModel()
    records = tuned(tvm, target, task, tmp_path, strategy, model)
    assert len(records) == len({record.steps for record in records}) == TRIALS
    assert all(record.valid for record in records)
    # Each once, whoever tells it.
    assert [schedule for schedule, _ in learned(strategy, task)] == [r.steps for r in records]


def test_it_goes_on_with_a_database(tvm, target, task, scorer, tmp_path):
    first = PlannerStrategy(scorer, population=64)
    tuned(tvm, target, task, tmp_path, first, first.cost_model, trials=ROUND)
    second = PlannerStrategy(scorer, population=64)
    records = tuned(tvm, target, task, tmp_path, second, second.cost_model, trials=ROUND)
    assert len(records) == len({record.steps for record in records}) == 2 * ROUND
    assert len(learned(second, task)) == 2 * ROUND


def test_it_finds_what_cwm_tune_finds(tvm, target, task, scorer, tmp_path, monkeypatch):
    # TVM's threads share the draws of one seed between them as it happens; one thread repeats them.
    contexts = importlib.import_module("tvm.s_tir.meta_schedule.tune_context")
    monkeypatch.setattr(contexts, "cpu_count", lambda logical: 1)
    strategy = PlannerStrategy(scorer, population=64)
    records = tuned(tvm, target, task, tmp_path / "tvm", strategy, strategy.cost_model)
    config = TuningConfig(trials=TRIALS, round_size=ROUND, search="planner", population=64)
    engine = MetaScheduleEngine(tvm, target)
    found = tune_task(engine, task, config, tmp_path / "ours", scorer=scorer)
    ours = {record.steps for record in engine.recorded(tmp_path / "ours")[:ROUND]}
    theirs = {record.steps for record in records[:ROUND]}
    assert ours == theirs
    ratio = np.min([record.latency for record in records]) / min(found.latencies)
    assert 0.4 < ratio < 2.5
