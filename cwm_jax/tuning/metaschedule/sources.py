"""Where the candidates of a search of MetaSchedule come from: TVM's evolution, or imagination."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from cwm_jax.ranking.online import OnlineRanker, Schedule
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.metaschedule.database import parse_trace_lines
from cwm_jax.records.metaschedule.trace import Skeletons, Trace
from cwm_jax.search.trace_planner import TracePlanner, TracePlannerConfig
from cwm_jax.tuning.clock import Clock
from cwm_jax.tuning.metaschedule.candidates import sampling_context
from cwm_jax.tvm_bridge.metaschedule.builder import load_intrinsics
from cwm_jax.tvm_bridge.metaschedule.traces import steps_of_candidates, trace_lines

_SAMPLE = 64
"""Traces that TVM draws at random for the planner: so many a round, and at first more."""
_FIRST_SAMPLES = 4
_MOST_SAMPLED = 1 << 30


class Offers(Protocol):
    """Offers candidates of one module.

    Attributes:
        context: `TuneContext` of the module.
        imagined: Schedules that were scored without asking TVM's cost model.
    """

    context: Any
    imagined: int

    def offer(self, known: set[Schedule]) -> dict[Schedule, Any]:
        """Returns new `MeasureCandidate`s by their steps; none where there are no more.

        Args:
            known: What is measured already.
        """
        ...

    def learn(self, candidates: Sequence[Any], results: Sequence[Any]) -> None:
        """Takes in what was measured."""
        ...

    def close(self) -> None:
        """Ends the search."""
        ...


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


class Sampler:
    """Has TVM draw candidates of one module at random, such as pass its postprocessing.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        target: TVM target.
        seed: Of the draws.

    Attributes:
        context: `TuneContext` of the module.
    """

    def __init__(self, tvm: Any, module: Any, target: Any, seed: int) -> None:
        ms = tvm.s_tir.meta_schedule
        self.context = sampling_context(
            tvm,
            module,
            target,
            ms.search_strategy.ReplayTrace(),
            ms.cost_model.RandomModel(),
            seed,
            trials=_MOST_SAMPLED,
            round_size=_SAMPLE,
        )
        self._unmeasured = ms.runner.RunnerResult([1.0], None)

    def draw(self) -> list[Any]:
        """Returns more `MeasureCandidate`s."""
        candidates = list(self.context.generate_measure_candidates() or ())
        self.context.notify_runner_results(candidates, [self._unmeasured] * len(candidates))
        return candidates

    def close(self) -> None:
        """Ends TVM's sampling."""
        self.context.post_tuning()


class Imagination:
    """Traces that a planner evolves; TVM draws the first ones, and checks the best.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        graph: The same.
        online: Ranks, corrected by what is measured.
        clock: Notes when the planner runs.
        sampler: Of the module; stays open.
        count: Candidates to offer at a time.
        seed: Of the planner's randomness.
        config: Of the planner.
    """

    def __init__(
        self,
        tvm: Any,
        module: Any,
        graph: ComputeGraph,
        online: OnlineRanker,
        clock: Clock,
        sampler: Sampler,
        count: int,
        seed: int,
        config: TracePlannerConfig | None = None,
    ) -> None:
        self._tvm, self._module, self._graph, self._count = tvm, module, graph, count
        self._sampler, self.context = sampler, sampler.context
        self.imagined = 0
        self._skeletons = Skeletons()
        self._planner = TracePlanner(
            graph,
            partial(online.pretrained_scores, graph),
            config or TracePlannerConfig(),
            np.random.default_rng(seed),
        )
        self._correct = partial(online.corrected, graph)
        self._online, self._scorer = online, online.scorer_of(graph.workload_key)
        self._clock = clock
        self._sampled = False
        self._tried: set[Schedule] = set()
        self._offered: set[Schedule] = set()

    def offer(self, known: set[Schedule]) -> dict[Schedule, Any]:
        """Plans, and has TVM build what it finds best."""
        scorer = self._online.scorer_of(self._graph.workload_key)
        if self._scorer is not scorer:
            self._scorer = scorer
            self._clock.around(self._planner.rank_again)()
        for _ in range(1 if self._sampled else _FIRST_SAMPLES):
            self._clock.around(self._planner.add)(self._traces(self._sampler.draw()))
        self._sampled = True
        wanted = 2 * self._count + len(self._tried) + len(known)
        plan = self._clock.around(self._planner.plan)(self._correct, wanted)
        self.imagined += plan.imagined
        todo = iter(zip(plan.traces, plan.schedules, strict=True))
        found: dict[Schedule, Any] = {}
        while (left := self._count - len(found)) and (built := self._build_some(todo, left, known)):
            # TVM may put a block at another loop than a trace says; what it built is what counts.
            steps = steps_of_candidates(self._tvm, built, self._graph)
            for schedule, candidate in zip(steps, built, strict=True):
                if schedule not in known and schedule not in self._offered:
                    found[schedule] = candidate
                    self._offered.add(schedule)
        return found

    def _build_some(
        self, todo: Iterator[tuple[Trace, Schedule]], count: int, known: set[Schedule]
    ) -> list[Any]:
        """Builds the next new ones of a plan."""
        built: list[Any] = []
        for trace, schedule in todo:
            if schedule in known or schedule in self._tried:
                continue
            self._tried.add(schedule)
            candidate = self._build(trace)
            if candidate is None:
                self._planner.refuse(schedule)
                continue
            built.append(candidate)
            if len(built) == count:
                break
        return built

    def learn(self, candidates: Sequence[Any], results: Sequence[Any]) -> None:
        """Takes what was measured as parents; how good it is the planner asks the cost model."""
        self._planner.add(self._traces(candidates))

    def close(self) -> None:
        """Does nothing: the sampler is the caller's."""

    def _traces(self, candidates: Sequence[Any]) -> list[Trace]:
        lines = trace_lines(self._tvm, candidates)
        return parse_trace_lines(dict.fromkeys(lines), self._skeletons)

    def _build(self, trace: Trace) -> Any | None:
        """Returns the `MeasureCandidate` of a trace; None where TVM refuses it."""
        tir, ms = self._tvm.s_tir, self._tvm.s_tir.meta_schedule
        schedule = tir.Schedule(self._module)
        try:
            tir.schedule.Trace.apply_json_to_schedule(self._skeletons.format(trace), schedule)
            schedule.enter_postproc()
            if not all(p.apply(schedule) for p in self.context.space_generator.postprocs):
                return None
        except Exception:  # TVM raises what its primitives meet
            return None
        arguments = ms.arg_info.ArgInfo.from_entry_func(schedule.mod, remove_preproc=True)
        return ms.MeasureCandidate(schedule, arguments)
