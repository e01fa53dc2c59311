"""TVM's evolutionary search as a source of candidates."""

from collections.abc import Sequence
from typing import Any

from cwm_jax.ranking.online import Schedule
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.tvm_bridge.metaschedule.builder import load_intrinsics
from cwm_jax.tvm_bridge.metaschedule.traces import steps_of_candidates


class Evolution:
    """TVM's evolutionary search.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        graph: The same.
        target: TVM target.
        database: Of what is measured.
        model: `CostModel` that it asks.
        trials: Candidates to offer until it ends; TVM takes off what is measured.
        count: Candidates to offer at a time.
        population: Schedules of a generation.
        seed: Of all randomness.
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
