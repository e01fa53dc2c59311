"""Candidates for a corpus of MetaSchedule: slow, middling and near-optimal programs."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cwm_jax.ranking.online import Schedule
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.steps import Step
from cwm_jax.tuning.collection import Mix
from cwm_jax.tuning.metaschedule.cost_models import Fields, tuning_records, update_of
from cwm_jax.tvm_bridge.metaschedule.builder import load_intrinsics
from cwm_jax.tvm_bridge.metaschedule.planning import sampling_context as new_context
from cwm_jax.tvm_bridge.metaschedule.traces import steps_of_candidates

# A corpus wants variety, not the optimum: a fraction of TVM's population and generations.
_SIZE = {"population_size": 192, "genetic_num_iters": 3}
# But where a module's own records train the model, they lead to what other models do not know.
_DEEPER = {"population_size": 384, "genetic_num_iters": 4}
_PATIENCE = 3

Candidates = dict[tuple[Step, ...], Any]


def draw_candidates(
    tvm: Any,
    module: Any,
    graph: ComputeGraph,
    target: Any,
    mix: Mix,
    seed: int,
    *,
    scorer: Scorer | None,
    known: set[tuple[Step, ...]],
    traces: Sequence[Fields] = (),
) -> Candidates:
    """Returns new candidates of a module by their steps, no two alike and none known.

    Fewer than asked for come back where the search space is small.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        graph: The same.
        target: TVM target.
        mix: How many of each origin.
        seed: Seed of the draw; TVM does not repeat it exactly.
        scorer: The world model that guides, if any.
        known: Steps of candidates that are measured already.
        traces: Valid records of the module, which train the XGBModel, and from which its
            evolution starts.
    """
    ms = tvm.s_tir.meta_schedule
    evolution = ms.search_strategy.EvolutionarySearch(init_min_unmeasured=16, **_SIZE)
    random = ms.cost_model.RandomModel(seed=seed % 2**31)
    wanted = mix.sampled + mix.mutated + mix.guided + mix.boosted
    found: Candidates = {}

    def take(strategy: Any, model: Any, count: int, measured: Sequence[Fields] = ()) -> None:
        seen = {*known, *found}
        at = seed + len(found)
        drawn = _drawn(tvm, module, graph, target, strategy, model, at, count, seen, measured)
        found.update(itertools.islice(drawn.items(), max(count, 0)))

    if mix.boosted and traces:
        boosted = ms.cost_model.XGBModel(num_warmup_samples=1)
        boosted.update(*update_of(tvm, module, target, traces))
        deeper = ms.search_strategy.EvolutionarySearch(**_DEEPER)
        take(deeper, boosted, mix.boosted, traces)

    if mix.guided and scorer is not None:
        from cwm_jax.tvm_bridge.metaschedule.cost_model import WorldModelCostModel

        take(evolution, WorldModelCostModel(scorer), mix.guided)
    if mix.mutated:
        take(evolution, random, mix.mutated)
    take(ms.search_strategy.ReplayTrace(), random, wanted - len(found))
    # A drift of the machine should touch all origins.
    order = np.random.default_rng(seed).permutation(len(found))
    items = list(found.items())
    return dict(items[at] for at in order)


def _drawn(
    tvm: Any,
    module: Any,
    graph: ComputeGraph,
    target: Any,
    strategy: Any,
    model: Any,
    seed: int,
    count: int,
    known: set[tuple[Step, ...]],
    measured: Sequence[Fields],
) -> Candidates:
    """Asks a search strategy for candidates until there are enough new ones, or none come."""
    if count <= 0:
        return {}
    ms = tvm.s_tir.meta_schedule
    size = 2 * count
    context = sampling_context(
        tvm,
        module,
        target,
        strategy,
        model,
        seed,
        trials=_PATIENCE * size,
        round_size=size,
        measured=measured,
    )
    found: Candidates = {}
    for _ in range(_PATIENCE):
        candidates: Sequence[Any] = list(context.generate_measure_candidates() or ())
        if not candidates:
            break
        schedules = steps_of_candidates(tvm, candidates, graph)
        for schedule, candidate in zip(schedules, candidates, strict=True):
            if schedule not in known:
                found.setdefault(schedule, candidate)
        if len(found) >= count:
            break
        unmeasured = ms.runner.RunnerResult([1.0], None)
        context.notify_runner_results(candidates, [unmeasured] * len(candidates))
    context.post_tuning()
    return found


def sampling_context(
    tvm: Any,
    module: Any,
    target: Any,
    strategy: Any,
    model: Any,
    seed: int,
    *,
    trials: int,
    round_size: int,
    measured: Sequence[Fields] = (),
) -> Any:
    """Returns a `TuneContext` that can be asked for candidates.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        target: TVM target.
        strategy: `SearchStrategy`.
        model: `CostModel` that it asks.
        seed: Seed of the draw.
        trials: Candidates that may be asked for in all.
        round_size: Candidates that come at a time.
        measured: Records of the module from before.
    """
    ms = tvm.s_tir.meta_schedule
    context = new_context(tvm, module, target, strategy, seed)
    database = ms.database.MemoryDatabase()
    workload = database.commit_workload(module)
    for record in tuning_records(tvm, workload, measured):
        database.commit_tuning_record(record)
    context.pre_tuning(trials, round_size, context.generate_design_space(), database, model)
    return context


class Evolution:
    """TVM's evolutionary search.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        graph: The same.
        target: TVM target.
        database: Database of what is measured.
        model: `CostModel` that it asks.
        trials: Candidates to offer until it ends; TVM takes off what is measured.
        count: Candidates to offer at a time.
        population: Schedules of a generation.
        seed: Seed of all randomness.
    """

    def __init__(
        self,
        tvm: Any,
        module: Any,
        graph: ComputeGraph,
        target: Any,
        database: Any,
        model: Any,
        *,
        trials: int,
        count: int,
        population: int,
        seed: int,
    ) -> None:
        load_intrinsics()
        ms = tvm.s_tir.meta_schedule
        self._tvm, self._graph = tvm, graph
        self.context = ms.TuneContext(
            mod=module,
            target=target,
            space_generator="post-order-apply",
            search_strategy=ms.search_strategy.EvolutionarySearch(population_size=population),
            task_name="main",
            rand_state=seed,
        )
        spaces = self.context.generate_design_space()
        self.context.pre_tuning(trials, count, spaces, database, model)
        self.imagined = 0

    def offer(self, known: set[Schedule]) -> dict[Schedule, Any]:
        """Returns the next generation's best.

        Raises:
            RuntimeError: What TVM makes of an error in the cost model.
        """
        candidates = list(self.context.generate_measure_candidates() or ())
        schedules = steps_of_candidates(self._tvm, candidates, self._graph)
        # TVM forgets what an earlier run measured.
        return {
            schedule: candidate
            for schedule, candidate in zip(schedules, candidates, strict=True)
            if schedule not in known
        }

    def learn(self, candidates: Sequence[Any], results: Sequence[Any]) -> None:
        """Tells TVM, which counts what is measured."""
        self.context.notify_runner_results(candidates, results)

    def close(self) -> None:
        """Ends TVM's search."""
        self.context.post_tuning()
