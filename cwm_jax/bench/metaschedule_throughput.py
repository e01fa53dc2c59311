"""What MetaSchedule asks a cost model: `predict(context, candidates)`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from cwm_jax.bench.throughput import LEARNED, Boundary, pretend_latencies
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.tuning.metaschedule.candidates import sampling_context
from cwm_jax.tuning.metaschedule.targets import create_module, host_target
from cwm_jax.tvm_bridge.metaschedule.graphs import read_graph
from cwm_jax.tvm_bridge.metaschedule.traces import CandidateReader, steps_of_candidates
from cwm_jax.tvm_bridge.runtime import use
from cwm_jax.workloads.parse import parse_workload

_ROUND = 16


def metaschedule_boundary(workload: str, scorer: Scorer, count: int) -> Boundary:
    """Samples candidates as a search does at first, and has both models learn from some.

    Args:
        workload: As for `cwm tune`.
        scorer: The world model's checkpoint.
        count: How many candidates.
    """
    tvm = use("metaschedule")
    from cwm_jax.tvm_bridge.metaschedule.cost_model import WorldModelCostModel, workload_key

    ms = tvm.s_tir.meta_schedule
    target = host_target(tvm)
    module = create_module(tvm, parse_workload(workload), target)
    context = sampling_context(
        tvm,
        module,
        target,
        ms.search_strategy.ReplayTrace(),
        ms.cost_model.RandomModel(),
        0,
        trials=LEARNED + count,
        round_size=LEARNED + count,
    )
    graph = read_graph(tvm, module, workload_key(module))
    drawn = list(context.generate_measure_candidates() or ())
    # What is drawn twice would be scored once by the world model, but twice by the rival.
    distinct = dict(zip(steps_of_candidates(tvm, drawn, graph), drawn, strict=True))
    schedules, found = list(distinct), list(distinct.values())
    learned, asked = found[:LEARNED], slice(LEARNED if len(found) > LEARNED else 0, None)
    candidates = found[asked]
    results = [
        ms.runner.RunnerResult([latency], None) for latency in pretend_latencies(len(learned))
    ]
    rival = ms.cost_model.XGBModel(num_warmup_samples=_ROUND - 1)
    rival.update(context, learned, results)
    reader = CandidateReader(tvm)  # a search has one all along

    def prepare_ours(batch: int) -> Callable[[], Any]:
        # One that has scored candidates remembers them.
        model = WorldModelCostModel(scorer, reader=reader)
        model.update(context, learned, results)
        model.predict(context, learned[:1])  # fits what it has learned
        return partial(model.predict, context, candidates[:batch])

    return Boundary(
        graph,
        schedules[asked],
        {
            "world-model": prepare_ours,
            "xgboost": lambda batch: partial(rival.predict, context, candidates[:batch]),
        },
    )
