"""Ansor's sketch policy: what samples and evolves states of one task."""

from collections.abc import Sequence
from typing import Any, NamedTuple

POPULATION = 2048


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
