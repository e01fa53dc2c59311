"""A MetaSchedule search puts its world model to the test against random draws."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from cwm_jax.ranking.online import TrustWarning
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.ranking.task_ranker import shipped_scorers
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tuning.measurement import TuningConfig, measure_once
from cwm_jax.tuning.metaschedule.engine import MetaScheduleEngine
from cwm_jax.tuning.metaschedule.search import MetaScheduleSession


class PretendDevice:
    """Runs nothing: a function says how long candidates take."""

    reference = None

    def __init__(self, tvm: Any, seconds: Callable[[list[Any]], list[float]]) -> None:
        self._result = tvm.s_tir.meta_schedule.runner.RunnerResult
        self._seconds = seconds

    def build(self, inputs):
        return list(inputs)

    def failure(self, built):
        return ""

    def run(self, inputs, built):
        return [self._result([taken], None) for taken in self._seconds(list(inputs))]

    def latency(self, result):
        return float(result.run_secs[0])

    def discard(self, built):
        pass


class Search:
    """Rounds of a session's only task; a round is the records that it added."""

    def __init__(self, session: MetaScheduleSession) -> None:
        self._session = session

    def next_round(self, count):
        before = len(self._session.records(0))
        self._session.search(0).round(count)
        return self._session.records(0)[before:]

    def finish(self):
        self._session.close()


@pytest.fixture(scope="module")
def task(create_task):
    return create_task("conv2d:1,14,14,32,64,3,1,1")


@pytest.fixture
def start(tvm, task, target, tmp_path):
    """What a candidate takes, and where candidates come from -> a search, and its ranker."""
    tasks = [MetaScheduleEngine(tvm, target).task(task.module)]

    def begin(seconds, source):
        config = TuningConfig(trials=64, search=source, population=64)
        session = MetaScheduleSession(
            tvm,
            tasks,
            target,
            config,
            tmp_path / "search",
            Scorer.load("cpu-x86-2core"),
            interrupt=Interrupt(),
            measure=partial(measure_once, PretendDevice(tvm, seconds)),
        )
        return Search(session), session.timed.online

    return begin


@pytest.mark.parametrize("source", ["planner", "evolutionary"])
@pytest.mark.filterwarnings("ignore::cwm_jax.ranking.catalog.PairingWarning")
def test_choices_that_are_no_faster_than_draws_refute_a_model(start, task, source):
    search, online = start(lambda inputs: [1e-3] * len(inputs), source)
    key = task.graph.workload_key
    first = search.next_round(16)
    assert len(first) == 8
    assert online.trusted(key) is None
    with pytest.warns(TrustWarning, match="none agrees"):
        second = search.next_round(16)
    assert online.trusted(key) is False
    assert len(second) == 16
    measured = [record.steps for record in (*first, *second)]
    assert len(set(measured)) == 24
    search.finish()


@pytest.mark.filterwarnings("ignore::cwm_jax.ranking.catalog.PairingWarning")
def test_choices_that_are_faster_prove_a_model(tvm, start, task):
    model = Scorer.load("cpu-x86-2core")

    def seconds(inputs):
        score = model.rank_schedules(task.graph, task.steps(tvm, inputs)).score
        return np.exp(-2 * score.astype(np.float64)).tolist()

    search, online = start(seconds, "planner")
    assert len(search.next_round(16)) == 8
    assert len(search.next_round(16)) == 16
    assert online.trusted(task.graph.workload_key) is True
    search.finish()


@pytest.mark.filterwarnings("ignore::cwm_jax.ranking.catalog.PairingWarning")
def test_a_plan_goes_on_with_the_model_that_takes_over(tvm, start, task):
    """What is measured is ordered by a shipped one, but too level for any choice to stand out."""
    other = shipped_scorers("metaschedule", "cpu")[0]

    def seconds(inputs):
        score = other.rank_schedules(task.graph, task.steps(tvm, inputs)).score
        place = np.argsort(np.argsort(-score))
        return (1e-3 * (1 + place / 1000)).tolist()

    search, online = start(seconds, "planner")
    search.next_round(16)
    with pytest.warns(TrustWarning, match=f"that for {other.hardware.name} is tried"):
        second = search.next_round(16)
    key = task.graph.workload_key
    assert online.scorer_of(key).hardware == other.hardware
    assert online.trusted(key) is None
    # Other than the first model's candidates are, all of these are to the new one's taste.
    sampled = task.steps(tvm, task.candidates(tvm, 64))
    drawn = other.rank_schedules(task.graph, sampled).score
    chosen = other.rank_schedules(task.graph, [r.steps for r in second]).score
    assert np.median(chosen) > np.quantile(drawn, 0.9)
    search.finish()
