"""Rounds of a planned search: TVM gives sketches and checks the best, all else is imagined."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cwm_jax.errors import WorkloadError, last_line
from cwm_jax.features.batch import StepArrays
from cwm_jax.features.graph import encode_graph
from cwm_jax.ranking.scorer import Scorer, Scores, take_scores
from cwm_jax.records.ansor_log import format_line, parse_line
from cwm_jax.records.record import Record
from cwm_jax.records.steps import Step
from cwm_jax.search.planner import Planner, PlannerConfig
from cwm_jax.tuning.ansor.settings import POPULATION
from cwm_jax.tuning.clock import Clock
from cwm_jax.tvm_bridge.ansor.cost_model import WorldModelCostModel, schedules_of_states


class Size(NamedTuple):
    """How much one evolutionary search looks at.

    Attributes:
        population: States of a generation, and of a sample.
        generations: How many of them.
        least_sampled: States that a sample has at least, where there are so many.
    """

    population: int = POPULATION
    generations: int = 4
    least_sampled: int = 50


ANSORS_OWN = Size()
_LEAST_POPULATION = 64
_SEEDS = 2**31


def search_size(population: int) -> Size:
    """Returns the size of a search by the population that a user asks for.

    TVM gives up a search if all states of one sample are invalid, so it is never a small one.
    """
    return Size(max(population, _LEAST_POPULATION))


def sketch_policy(
    tvm: Any,
    task: Any,
    seed: int,
    *,
    model: Any = None,
    size: Size = ANSORS_OWN,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Returns an `auto_scheduler.SketchPolicy`, which searches as Ansor does by default.

    Args:
        tvm: A TVM with Ansor.
        task: `auto_scheduler.SearchTask`.
        seed: Of its draws; TVM holds 31 bits of it.
        model: Ranks states; None for one that guesses.
        size: Of one search; Ansor's own by default.
        callbacks: `SearchCallback`s, called once before the search.
    """
    ansor = tvm.auto_scheduler
    params = dict(ansor.SketchPolicy.DEFAULT_PARAMS) | {
        "evolutionary_search_population": size.population,
        "evolutionary_search_num_iters": size.generations,
        "sample_init_min_population": size.least_sampled,
    }
    return ansor.SketchPolicy(
        task,
        ansor.RandomModel() if model is None else model,
        params=params,
        seed=seed % _SEEDS,
        verbose=0,
        init_search_callbacks=list(callbacks) or None,
    )


_LATER_SAMPLE = 256
_PROPOSED_PER_TRIAL = 8
_CHECKED_PER_DRAW = 2


class PlannedRound(NamedTuple):
    """What one round found.

    Attributes:
        inputs: `MeasureInput` of each candidate.
        results: Their measurements.
        model_seconds: In the world model.
        measure_seconds: Building and running.
        imagined: Schedules that were scored.
        proposed: Schedules that were handed to TVM.
        rejected: Those that TVM refused.
    """

    inputs: list[Any]
    results: list[Any]
    model_seconds: float
    measure_seconds: float
    imagined: int
    proposed: int
    rejected: int


class _State(NamedTuple):
    """A state with its bounds, and its loop nest as text."""

    state: Any
    shown: str


class PlannedSearch:
    """Searches one task.

    Args:
        tvm: A TVM with Ansor.
        task: `auto_scheduler.SearchTask`.
        model: Ranks, and learns from what is measured.
        measure: Builds and runs `MeasureInput`s.
        seed: Of all randomness.
        config: Of the planner; TVM samples as many schedules at first as a generation has.
    """

    def __init__(
        self,
        tvm: Any,
        task: Any,
        model: WorldModelCostModel,
        measure: Callable[[Sequence[Any]], Sequence[Any]],
        seed: int,
        config: PlannerConfig | None = None,
    ) -> None:
        self._ansor = tvm.auto_scheduler
        self._error = tvm.TVMError
        self._task = task
        self._model = model
        self._measure = measure
        self._clock = Clock()
        self._graph = model.graph(task)
        self._config = config or PlannerConfig()
        self._rng = np.random.default_rng([seed, 1])
        self._planner, self._scorer = self._new_planner(seed), self._current_scorer()
        first = self._config.population
        self._first = sketch_policy(tvm, task, seed + 1, size=search_size(first))
        self._later = sketch_policy(
            tvm, task, seed + 2, size=search_size(min(first, _LATER_SAMPLE))
        )
        self._sampled = False
        self._seen: set[str] = set()
        self._form: Record | None = None

    def remember(self, inputs: Sequence[Any]) -> None:
        """Notes what has been measured: it is not measured again, and becomes a parent."""
        if not inputs:
            return
        self._planner.add(schedules_of_states(self._task, [item.state for item in inputs]))
        self._seen |= {shown for item in inputs if (shown := self._checked(item.state)[1])}

    def round(self, size: int) -> PlannedRound:
        """Plans, checks, and measures up to `size` new candidates."""
        self._clock.calls.clear()
        online = self._model.online
        choices, draws = self._clock.around(online.spend)(self._graph, size)
        self._begin_anew_for_another_model()
        sampled = self._sample()
        self._planner.add(sampled)
        drawn = self._draw(sampled, draws)
        correct = self._clock.around(partial(online.corrected, self._graph))
        wanted = _PROPOSED_PER_TRIAL * size + len(self._seen)
        planned = self._planner.plan(correct, wanted)
        places, states, rejected = self._new_states(planned.schedules)
        choose = self._clock.around(partial(online.choose, self._graph))
        chosen = choose(take_scores(planned.ranked, places), choices)
        inputs = [
            self._ansor.MeasureInput(self._task, state)
            for state in [*(states[at].state for at in chosen), *drawn]
        ]
        self._seen |= {states[at].shown for at in chosen}
        started = time.perf_counter()
        results = list(self._measure(inputs)) if inputs else []
        measure_seconds = time.perf_counter() - started
        self._clock.around(self._model.update)(inputs, results)
        return PlannedRound(
            inputs,
            results,
            sum(end - start for start, end in self._clock.calls),
            measure_seconds,
            planned.imagined,
            len(planned.schedules),
            rejected,
        )

    def _new_planner(self, seed: int) -> Planner:
        rng = np.random.default_rng(seed)
        return Planner(self._graph, self._clock.around(self._rank), self._config, rng)

    def _current_scorer(self) -> Scorer:
        return self._model.online.scorer_of(self._graph.workload_key)

    def _begin_anew_for_another_model(self) -> None:
        """Forgets what a model imagined that has turned out to be wrong."""
        if self._scorer is self._current_scorer():
            return
        measured = self._model.online.measured[self._graph.workload_key]
        self._scorer = self._current_scorer()
        self._planner = self._new_planner(int(self._rng.integers(2**31)))
        self._planner.add([schedule for schedule, _ in measured])
        self._sampled = False

    def _draw(self, sampled: Sequence[tuple[Step, ...]], count: int) -> list[Any]:
        """Draws new states from what TVM sampled, for `OnlineRanker.spend`.

        They are drawn blindly until the model is known to be wrong; then by what was measured.
        """
        if not count:
            return []
        online, graph = self._model.online, self._graph
        if online.trusted(graph.workload_key) is False:
            choose = self._clock.around(online.choose_schedules)
            order = choose(graph, sampled, _CHECKED_PER_DRAW * count)
        else:
            order = self._rng.permutation(len(sampled))[: _CHECKED_PER_DRAW * count]
        _, states, _ = self._new_states([sampled[at] for at in order])
        drawn = states[:count]
        self._seen |= {state.shown for state in drawn}
        found = [state.state for state in drawn]
        schedules = schedules_of_states(self._task, found) if found else []
        online.note_drawn(graph.workload_key, schedules)
        return found

    def _new_states(
        self, schedules: Sequence[tuple[Step, ...]]
    ) -> tuple[list[int], list[_State], int]:
        """Checks schedules: places and states of those that are new and distinct.

        Returns:
            Places among the schedules, their states, and how many schedules TVM refused.
        """
        places: list[int] = []
        states: list[_State] = []
        seen, rejected = set(self._seen), 0
        for place, schedule in enumerate(schedules):
            state, shown = self._checked(self._state_of(schedule))
            if state is None:
                rejected += 1
            elif shown not in seen:
                seen.add(shown)
                places.append(place)
                states.append(_State(state, shown))
        return places, states, rejected

    def _rank(self, steps: StepArrays) -> Scores:
        graph = encode_graph(self._graph, steps.slots)
        return self._scorer.rank_arrays(graph, steps)

    def _sample(self) -> list[tuple[Step, ...]]:
        """Draws schedules from TVM: many while nothing else helps, else a few new structures."""
        distrusted = self._model.online.trusted(self._graph.workload_key) is False
        policy = self._later if self._sampled and not distrusted else self._first
        self._sampled = True
        try:
            sampled = list(policy.sample_initial_population())
        except self._error as error:
            key = str(self._task.workload_key)[:80]
            raise WorkloadError(f"{key}: Ansor cannot sample it ({last_line(error)})") from error
        return schedules_of_states(self._task, sampled)

    def _state_of(self, schedule: tuple[Step, ...]) -> Any:
        if self._form is None:
            empty = self._ansor.MeasureInput(self._task, self._task.compute_dag.get_init_state())
            result = self._ansor.measure.MeasureResult([0.0], 0, "", 0.0, 0)
            line = self._ansor.measure_record.dump_record_to_string(empty, result)
            self._form = parse_line(str(line))
        line = format_line(dataclasses.replace(self._form, steps=schedule))
        return self._ansor.measure_record.load_record_from_string(line)[0].state

    def _checked(self, state: Any) -> tuple[Any, str]:
        """The state with its bounds and its loop nest as text; None where TVM refuses it."""
        try:
            bounded = self._task.compute_dag.infer_bound_from_state(state)
        except self._error:
            return None, ""
        return bounded, str(bounded)
