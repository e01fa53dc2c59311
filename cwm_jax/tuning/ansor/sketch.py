"""Ansor's sketches: what samples, evolves and checks the states of one task."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from cwm_jax.errors import WorkloadError, last_line
from cwm_jax.records.ansor_log import format_line, parse_line
from cwm_jax.records.record import Record
from cwm_jax.records.steps import Step

POPULATION = 2048
"""States of a generation, as Ansor has it."""
_LATER_SAMPLE = 256


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
        seed: Seed of its draws; TVM holds 31 bits of it.
        model: Ranks states; None for one that guesses.
        size: Size of one search; Ansor's own by default.
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


class SketchSpace:
    """The schedules of a task as Ansor's sketches (`cwm_jax.search.rounds.DesignSpace`).

    Args:
        tvm: A TVM with Ansor.
        task: `auto_scheduler.SearchTask`.
        seed: Seed of the samples.
        population: Schedules of a large sample.
    """

    def __init__(self, tvm: Any, task: Any, seed: int, population: int) -> None:
        self._ansor, self._error, self._task = tvm.auto_scheduler, tvm.TVMError, task
        self._many = sketch_policy(tvm, task, seed + 1, size=search_size(population))
        fewer = search_size(min(population, _LATER_SAMPLE))
        self._few = sketch_policy(tvm, task, seed + 2, size=fewer)
        self._form: Record | None = None

    def sample(self, *, many: bool) -> list[tuple[Step, ...]]:
        """Draws schedules at random.

        Raises:
            WorkloadError: Ansor cannot sample the task.
        """
        policy = self._many if many else self._few
        try:
            sampled = list(policy.sample_initial_population())
        except self._error as error:
            key = str(self._task.workload_key)[:80]
            raise WorkloadError(f"{key}: Ansor cannot sample it ({last_line(error)})") from error
        return self.schedules(sampled)

    def schedules(self, states: Sequence[Any]) -> list[tuple[Step, ...]]:
        """Returns the schedules of states."""
        from cwm_jax.tvm_bridge.ansor.cost_model import schedules_of_states

        return schedules_of_states(self._task, states)

    def check(self, schedule: tuple[Step, ...]) -> tuple[Any | None, str]:
        """Returns the `MeasureInput` of a schedule with its bounds, and its loop nest as text."""
        try:
            bounded = self._task.compute_dag.infer_bound_from_state(self._state_of(schedule))
        except self._error:
            return None, ""
        return self._ansor.MeasureInput(self._task, bounded), str(bounded)

    def _state_of(self, schedule: tuple[Step, ...]) -> Any:
        if self._form is None:
            empty = self._ansor.MeasureInput(self._task, self._task.compute_dag.get_init_state())
            result = self._ansor.measure.MeasureResult([0.0], 0, "", 0.0, 0)
            line = self._ansor.measure_record.dump_record_to_string(empty, result)
            self._form = parse_line(str(line))
        line = format_line(dataclasses.replace(self._form, steps=schedule))
        return self._ansor.measure_record.load_record_from_string(line)[0].state
