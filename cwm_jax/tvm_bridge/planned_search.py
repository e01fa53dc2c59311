"""Rounds of a planned search: TVM gives sketches and checks the best, all else is imagined."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cwm_jax.ranking.adaptation import choose_batch
from cwm_jax.records.ansor_log import format_line, parse_line
from cwm_jax.records.record import Record
from cwm_jax.records.steps import Step
from cwm_jax.search.planner import PlannerConfig, plan
from cwm_jax.tvm_bridge.ansor import WorldModelCostModel, schedules_of_states
from cwm_jax.tvm_bridge.results import latency_of

_SEED_CALLS = 4
_PROPOSED_PER_TRIAL = 8
_BEST_MEASURED = 32


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


class PlannedSearch:
    """Searches one task.

    Args:
        tvm: A TVM with Ansor.
        task: `auto_scheduler.SearchTask`.
        model: Ranks, and learns from what is measured.
        measure: Builds and runs `MeasureInput`s.
        seed: Of all randomness.
        config: Of the planner.
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
        self.config = config or PlannerConfig()
        self._ansor = tvm.auto_scheduler
        self._error = tvm.TVMError
        self._task = task
        self._model = model
        self._measure = measure
        self._rng = np.random.default_rng(seed)
        self._policy = self._ansor.SketchPolicy(task, seed=seed + 1, verbose=0)
        self._seeds: list[tuple[Step, ...]] = []
        self._measured: list[tuple[float, tuple[Step, ...]]] = []
        self._seen: set[str] = set()
        self._form: Record | None = None

    def remember(self, inputs: Sequence[Any], latencies: Sequence[float]) -> None:
        """Notes what has been measured: it is not measured again, and the best are parents."""
        if not inputs:
            return
        schedules = schedules_of_states(self._task, [item.state for item in inputs])
        self._measured += zip(latencies, schedules, strict=True)
        self._seen |= {shown for item in inputs if (shown := self._checked(item.state)[1])}

    def round(self, size: int) -> PlannedRound:
        """Plans, checks, and measures up to `size` new candidates."""
        self._sample()
        model_seconds = 0.0

        def score(arrays: Any) -> np.ndarray:
            nonlocal model_seconds
            started = time.perf_counter()
            found = self._model.score_arrays(self._task, arrays)
            model_seconds += time.perf_counter() - started
            return found

        best = sorted(self._measured, key=lambda pair: pair[0])[:_BEST_MEASURED]
        seeds = [*self._seeds, *(schedule for _, schedule in best)]
        program = self._model.program(self._task)
        wanted = _PROPOSED_PER_TRIAL * size
        planned = plan(seeds, program, score, wanted, self.config, self._rng)
        states: list[Any] = []
        schedules: list[tuple[Step, ...]] = []
        rejected = 0
        for schedule in planned.schedules:
            state, shown = self._checked(self._state_of(schedule))
            if state is None:
                rejected += 1
            elif shown not in self._seen:
                self._seen.add(shown)
                states.append(state)
                schedules.append(schedule)
        started = time.perf_counter()
        chosen = self._choose(schedules, size)
        model_seconds += time.perf_counter() - started
        for at in set(range(len(states))) - set(chosen):
            self._seen.discard(str(states[at]))
        inputs = [self._ansor.MeasureInput(self._task, states[at]) for at in chosen]
        started = time.perf_counter()
        results = list(self._measure(inputs)) if inputs else []
        ended = time.perf_counter()
        self._model.update(inputs, results)
        model_seconds += time.perf_counter() - ended
        latencies = [latency_of(result) for result in results]
        self._measured += zip(latencies, (schedules[at] for at in chosen), strict=True)
        return PlannedRound(
            inputs,
            results,
            model_seconds,
            ended - started,
            planned.imagined,
            len(planned.schedules),
            rejected,
        )

    def _sample(self) -> None:
        """Draws structures from TVM: many at first, some more each round."""
        calls = 1 if self._seeds else _SEED_CALLS
        for _ in range(calls):
            states = list(self._policy.sample_initial_population())
            self._seeds += schedules_of_states(self._task, states)
        self._seeds = list(dict.fromkeys(self._seeds))

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

    def _choose(self, schedules: Sequence[tuple[Step, ...]], size: int) -> list[int]:
        if not schedules:
            return []
        scores, adaptation = self._model.rank_schedules(self._task, schedules)
        if adaptation is None:
            return np.argsort(-scores.score, kind="stable")[:size].tolist()
        return choose_batch(adaptation, scores.score, scores.features, size)
