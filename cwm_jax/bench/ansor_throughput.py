"""What Ansor asks a cost model: `predict(task, states)`."""

from functools import partial
from typing import Any

from cwm_jax.bench.throughput import LEARNED, Boundary, pretend_latencies
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.tuning.ansor.cost_models import create_cost_model
from cwm_jax.tuning.ansor.sketch import sketch_policy
from cwm_jax.tuning.ansor.targets import host_target
from cwm_jax.tuning.ansor.tasks import create_task
from cwm_jax.tvm_bridge.ansor.graphs import graph_of_task
from cwm_jax.tvm_bridge.runtime import use
from cwm_jax.workloads.parse import parse_workload


def ansor_boundary(workload: str, scorer: Scorer, count: int) -> Boundary:
    """Samples states as first populations of a search, and has both models learn from some.

    Args:
        workload: As for `cwm tune`.
        scorer: The world model's checkpoint.
        count: How many states.
    """
    tvm = use("ansor")
    from cwm_jax.tvm_bridge.ansor.cost_model import schedules_of_states

    task = create_task(tvm, parse_workload(workload), host_target(tvm))
    states = _sample_states(tvm, task, count)
    models = {
        name: create_cost_model(tvm, name, scorer=scorer, round_size=16, seed=0)[0]
        for name in ("world-model", "xgboost")
    }
    measure = tvm.auto_scheduler.measure
    learned = states[:LEARNED]
    inputs = [measure.MeasureInput(task, state) for state in learned]
    results = [
        measure.MeasureResult([latency], 0, "", 1.0, 0)
        for latency in pretend_latencies(len(learned))
    ]
    for model in models.values():
        model.update(inputs, results)
    return Boundary(
        graph_of_task(tvm, task),
        schedules_of_states(task, states),
        {
            name: lambda batch, model=model: partial(model.predict, task, states[:batch])
            for name, model in models.items()
        },
    )


def _sample_states(tvm: Any, task: Any, count: int) -> list[Any]:
    states: list[Any] = []
    seed = 1
    while len(states) < count:
        states += list(sketch_policy(tvm, task, seed).sample_initial_population())
        seed += 1
    return states[:count]
