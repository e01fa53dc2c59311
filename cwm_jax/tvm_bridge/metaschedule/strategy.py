"""The planner as MetaSchedule's search strategy, for `strategy=` of `tune_tir` and `tune_relax`.

Importing this module loads a TVM that has MetaSchedule (see `cwm_jax.tvm_bridge.runtime.use`).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.search.rounds import CandidateChooser, Clock, Schedule
from cwm_jax.search.trace_planner import TracePlannerConfig
from cwm_jax.tvm_bridge.metaschedule.cost_model import WorldModelCostModel, workload_key
from cwm_jax.tvm_bridge.metaschedule.planning import (
    OFFERED,
    POPULATION,
    Imagination,
    PooledSource,
    Sampler,
    learn_recorded,
)
from cwm_jax.tvm_bridge.runtime import use

_tvm: Any = use("metaschedule")
_derived_object: Any = _tvm.ir.utils.derived_object
_ms: Any = _tvm.s_tir.meta_schedule


class _Tuning(NamedTuple):
    """What a strategy holds between `pre_tuning` and `post_tuning`."""

    chooser: CandidateChooser
    source: PooledSource
    per_round: int


@_derived_object
class PlannerStrategy(_ms.search_strategy.PySearchStrategy):
    """MetaSchedule's search strategy, backed by planning in latent space.

    Candidates are what `cwm tune --engine metaschedule` would measure. Pass the strategy's own
    `cost_model` as `cost_model=`, so that TVM teaches it what is measured; with any other, the
    strategy learns by itself. One instance serves any number of tasks: TVM clones it.

    Args:
        checkpoint: Name of a shipped checkpoint, a checkpoint folder, a loaded `Scorer`, or a
            `WorldModelCostModel` to share.
        population: Schedules of a generation.
        seed: Seed of the search.

    Attributes:
        cost_model: The `WorldModelCostModel` that ranks.

    Raises:
        CheckpointError: The checkpoint is missing or does not fit.
    """

    def __init__(
        self,
        checkpoint: Path | str | Scorer | Any,
        population: int = POPULATION,
        seed: int = 0,
    ) -> None:
        super().__init__()
        given = isinstance(checkpoint, Path | str | Scorer)
        self.cost_model = WorldModelCostModel(checkpoint) if given else checkpoint
        self._population, self._seed = population, seed
        self._context: Any = None
        self._tuning: _Tuning | None = None
        self._left = 0
        self._asked: dict[Schedule, Any] = {}

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Takes the module and target of a task."""
        self._context = (context.mod, context.target)

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: Sequence[Any],
        database: Any = None,
        cost_model: Any = None,
    ) -> None:
        """Begins a search, with what the database holds of the module.

        Args:
            max_trials: Candidates to measure at most.
            num_trials_per_iter: Candidates of a round.
            design_spaces: Ignored: the sampler generates them for itself.
            database: `Database`, None for none.
            cost_model: `CostModel` that TVM teaches what is measured, None for none.
        """
        module, target = self._context
        sampler = Sampler(_tvm, module, target, self._seed + 1)
        model, context = self.cost_model, sampler.context
        graph, online = model.graph_of(context), model.online_of(context)
        config = TracePlannerConfig(population=self._population)
        count, clock = OFFERED * num_trials_per_iter, Clock()
        offers = Imagination(
            _tvm, module, graph, online, clock, sampler, count, self._seed + 1, config
        )
        taught = cost_model is not None and cost_model.same_as(model)
        known = {schedule for schedule, _ in online.measured.get(workload_key(module), ())}

        def update(context: Any, candidates: Any, results: Any) -> None:
            if not taught:
                model.update(context, candidates, results)

        source = PooledSource(_tvm, graph, offers, sampler, clock, update, lambda: 0, known)
        if database is not None and database.has_workload(module) and not known:
            workload = database.commit_workload(module)
            learn_recorded(_tvm, database, workload, partial(model.update, offers.context))
            known |= {schedule for schedule, _ in online.measured.get(graph.workload_key, ())}
        chooser = CandidateChooser(graph, source, online, clock)
        self._tuning, self._left = _Tuning(chooser, source, num_trials_per_iter), max_trials

    def generate_measure_candidates(self) -> list[Any] | None:
        """Returns the candidates of the next round; None when there are no more."""
        if self._tuning is None or self._left <= 0:
            return None
        choice = self._tuning.chooser.next(min(self._tuning.per_round, self._left))
        self._asked = {**choice.chosen, **choice.drawn}
        self._left -= len(self._asked)
        return list(self._asked.values()) or None

    def notify_runner_results(
        self, measure_candidates: Sequence[Any], results: Sequence[Any]
    ) -> None:
        """Takes in what was measured."""
        if self._tuning is not None and self._asked:
            self._tuning.source.learn(self._asked, list(results))
            self._asked = {}

    def post_tuning(self) -> None:
        """Ends the search."""
        if self._tuning is not None:
            self._tuning.source.close()
            self._tuning = None

    def clone(self) -> "PlannerStrategy":
        """Returns a strategy with the same settings and the same cost model."""
        return PlannerStrategy(self.cost_model, self._population, self._seed)
