"""What MetaSchedule asks a cost model: `predict(context, candidates)`."""

from typing import Any

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.tvm_bridge.metaschedule_records import steps_of_candidates
from cwm_jax.tvm_bridge.metaschedule_targets import create_module, host_target
from cwm_jax.tvm_bridge.runtime import use
from cwm_jax.tvm_bridge.throughput_benchmark import Boundary, pretend_latencies
from cwm_jax.tvm_bridge.tir_programs import program_of_module
from cwm_jax.tvm_bridge.workloads import parse_workload

_LEARNED = 64
_ROUND = 16


def metaschedule_boundary(workload: str, checkpoint: str, count: int) -> Boundary:
    """Samples candidates as a search does at first, and has both models learn from some.

    Args:
        workload: As for `cwm tune`.
        checkpoint: Of the world model.
        count: How many candidates.
    """
    tvm = use("metaschedule")
    from cwm_jax.tvm_bridge.metaschedule import WorldModelCostModel, workload_key

    ms = tvm.s_tir.meta_schedule
    target = host_target(tvm)
    module = create_module(tvm, parse_workload(workload), target)
    context, candidates = _sampled(tvm, module, target, count)
    models = {
        "world-model": WorldModelCostModel(Scorer.load(checkpoint)),
        "xgboost": ms.cost_model.XGBModel(num_warmup_samples=_ROUND - 1),
    }
    learned = candidates[:_LEARNED]
    results = [
        ms.runner.RunnerResult([latency], None) for latency in pretend_latencies(len(learned))
    ]
    for model in models.values():
        model.update(context, learned, results)
    program = program_of_module(tvm, module, workload_key(module))
    return Boundary(
        program,
        steps_of_candidates(tvm, module, target, candidates, program),
        {
            name: lambda batch, model=model: model.predict(context, candidates[:batch])
            for name, model in models.items()
        },
    )


def _sampled(tvm: Any, module: Any, target: Any, count: int) -> tuple[Any, list[Any]]:
    """Returns a search's context, and random candidates as its first population has them."""
    ms = tvm.s_tir.meta_schedule
    context = ms.TuneContext(
        mod=module,
        target=target,
        space_generator="post-order-apply",
        search_strategy=ms.search_strategy.ReplayTrace(),
        task_name="main",
        rand_state=1,
    )
    database = ms.database.MemoryDatabase()
    database.commit_workload(module)
    spaces = context.generate_design_space()
    context.pre_tuning(count, count, spaces, database, ms.cost_model.RandomModel())
    return context, list(context.generate_measure_candidates() or ())
