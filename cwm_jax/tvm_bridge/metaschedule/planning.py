"""Planning for MetaSchedule: traces are imagined; TVM draws the first ones and builds the best."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from cwm_jax.ranking.online import OnlineRanker, Schedule
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.metaschedule.database import parse_trace_lines
from cwm_jax.records.metaschedule.trace import Skeletons, Trace
from cwm_jax.records.record import latency_of_costs
from cwm_jax.search.rounds import Clock, Proposal
from cwm_jax.search.trace_planner import TracePlanner, TracePlannerConfig
from cwm_jax.tvm_bridge.metaschedule.builder import load_intrinsics
from cwm_jax.tvm_bridge.metaschedule.traces import steps_of_candidates, trace_lines

_SAMPLE = 64
"""Traces that TVM draws at random for the planner: so many a round, and at first more."""
_FIRST_SAMPLES = 4
_MOST_SAMPLED = 1 << 30
POPULATION = 512
"""Schedules of a generation, as MetaSchedule has it."""
OFFERED = 4
"""Candidates that are offered for each one that the world model chooses to measure."""
_POOL = 512
"""Offered candidates that are kept for later rounds: none is offered twice."""


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
            known: Schedules that are measured already.
        """
        ...

    def learn(self, candidates: Sequence[Any], results: Sequence[Any]) -> None:
        """Takes in what was measured."""
        ...

    def close(self) -> None:
        """Ends the search."""
        ...


class Sampler:
    """Has TVM draw candidates of one module at random, such as pass its postprocessing.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        target: TVM target.
        seed: Seed of the draws.

    Attributes:
        context: `TuneContext` of the module.
    """

    def __init__(self, tvm: Any, module: Any, target: Any, seed: int) -> None:
        ms = tvm.s_tir.meta_schedule
        strategy, model = ms.search_strategy.ReplayTrace(), ms.cost_model.RandomModel()
        self.context = sampling_context(tvm, module, target, strategy, seed)
        database = ms.database.MemoryDatabase()
        database.commit_workload(module)
        spaces = self.context.generate_design_space()
        self.context.pre_tuning(_MOST_SAMPLED, _SAMPLE, spaces, database, model)
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
        sampler: Sampler of the module; stays open.
        count: Candidates to offer at a time.
        seed: Seed of the planner's randomness.
        config: Settings of the planner.
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


class PooledSource:
    """The candidates of one module, as offered now and before (`cwm_jax.search.rounds.Source`).

    Args:
        tvm: A TVM with MetaSchedule.
        graph: Compute graph of the module.
        offers: Offers candidates.
        sampler: Draws candidates at random; None without a world model.
        clock: Times the cost model.
        update: Takes `TuneContext`, candidates and results in, for the cost model.
        predicted: Returns how many candidates the cost model has scored.
        known: Schedules that are measured already.
    """

    checked_per_draw = 1

    def __init__(
        self,
        tvm: Any,
        graph: ComputeGraph,
        offers: Offers,
        sampler: Sampler | None,
        clock: Clock,
        update: Callable[[Any, Any, Any], None],
        predicted: Callable[[], int],
        known: set[Schedule],
    ) -> None:
        self._tvm, self._graph, self._offers, self._sampler = tvm, graph, offers, sampler
        self._update, self._predicted = clock.around(update), predicted
        self._known, self._pool = known, dict[Schedule, Any]()
        self._fresh: dict[Schedule, Any] = {}

    def begin(self) -> None:
        """Does nothing: what is offered is sampled when it is asked for."""

    def sample(self) -> Sequence[Schedule]:
        """Has TVM draw candidates at random."""
        assert self._sampler is not None
        sampled = self._sampler.draw()
        steps = steps_of_candidates(self._tvm, sampled, self._graph)
        pairs = zip(steps, sampled, strict=True)
        self._fresh = {steps: found for steps, found in pairs if steps not in self._known}
        return list(self._fresh)

    def shuffled(self, sampled: Sequence[Schedule], count: int) -> Sequence[int]:
        """Returns the first ones: TVM has drawn them in a random order."""
        return range(len(sampled))[:count]

    def accept(self, schedules: Sequence[Schedule], count: int) -> Mapping[Schedule, Any]:
        """Returns sampled candidates; all of them passed TVM's postprocessors."""
        return {schedule: self._fresh[schedule] for schedule in schedules[:count]}

    def propose(self, count: int, drawn: Mapping[Schedule, Any]) -> Proposal:
        """Returns what is offered now, and what was left of earlier offers."""
        before = self._predicted() + self._offers.imagined
        for schedule, candidate in self._offers.offer(self._known).items():
            self._pool.setdefault(schedule, candidate)
        for schedule in drawn:
            self._pool.pop(schedule, None)
        predicted = self._predicted() + self._offers.imagined - before
        return Proposal(dict(self._pool), None, {"predicted": predicted})

    def learn(self, candidates: Mapping[Schedule, Any], results: Sequence[Any]) -> None:
        """Corrects the ranking, and takes the measured ones out of the pool."""
        for schedule in candidates:
            self._pool.pop(schedule, None)
        # Without a world model, TVM has ranked what it offers, and offers the rest again.
        kept = _POOL if self._sampler else 0
        self._pool = dict(list(self._pool.items())[max(0, len(self._pool) - kept) :])
        found = list(candidates.values())
        self._offers.learn(found, results)
        self._update(self._offers.context, found, results)
        self._known.update(candidates)

    def close(self) -> None:
        """Tells TVM that the search is over."""
        self._offers.close()
        if self._sampler is not None:
            self._sampler.close()


def learn_recorded(
    tvm: Any, database: Any, workload: Any, update: Callable[[Any, Any], None]
) -> None:
    """Lets a cost model learn from the records of a database.

    Args:
        tvm: A TVM with MetaSchedule.
        database: `Database`.
        workload: Workload of the module in it.
        update: Takes candidates and results in, for the cost model.
    """
    result = tvm.s_tir.meta_schedule.runner.RunnerResult
    known = [r for r in database.get_all_tuning_records() if r.workload.same_as(workload)]
    seconds = [[float(value) for value in record.run_secs or ()] for record in known]
    if known:
        update(
            [record.as_measure_candidate() for record in known],
            [
                result(each, None)
                if latency_of_costs(each) < math.inf
                else result(None, "failed before")
                for each in seconds
            ],
        )


def sampling_context(tvm: Any, module: Any, target: Any, strategy: Any, seed: int) -> Any:
    """Returns a `TuneContext` of one module.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        target: TVM target.
        strategy: `SearchStrategy`.
        seed: Seed of its draws.
    """
    load_intrinsics()
    return tvm.s_tir.meta_schedule.TuneContext(
        mod=module,
        target=target,
        space_generator="post-order-apply",
        search_strategy=strategy,
        task_name="main",
        rand_state=seed % 2**30 + 1,
    )
