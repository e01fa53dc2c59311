"""Candidates for a corpus: slow, middling and near-optimal programs of one task."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.tuning.ansor.cost_models import create_cost_model
from cwm_jax.tvm_bridge.ansor.policies import Size, sketch_policy
from cwm_jax.tvm_bridge.mix import Mix

# A corpus wants variety, not the optimum: a fraction of Ansor's population and generations.
_SIZE = Size(256, 3)
# But where a task's own records train the model, they lead to what other models do not know.
_DEEPER = Size(1024, 4)


def draw_candidates(
    tvm: Any,
    task: Any,
    mix: Mix,
    seed: int,
    *,
    scorer: Scorer | None,
    measured: tuple[Sequence[Any], Sequence[Any]],
) -> list[Any]:
    """Returns new states of a task, no two alike and none measured before.

    Fewer than asked for come back where the search space is small.

    Args:
        tvm: A TVM with Ansor.
        task: `auto_scheduler.SearchTask`.
        mix: How many of each origin.
        seed: Of the draw.
        scorer: The world model that guides, if any.
        measured: Inputs and results that the task has already; they adapt the world model, and
            train the XGBoost model.
    """
    rng = np.random.default_rng(seed)
    inputs, results = measured
    seen = {str(item.state) for item in inputs}
    guesses = _random_model(tvm, seed)
    random_policy = sketch_policy(tvm, task, seed + 1, model=guesses, size=_SIZE)
    population = list(random_policy.sample_initial_population())

    def evolved_under(model: Any, count: int, size: Size) -> list[Any]:
        if len(inputs):
            model.update(inputs, results)
        policy = sketch_policy(tvm, task, seed + 1, model=model, size=size)
        ranked = list(policy.evolutionary_search(population, 8 * count))
        best = _take(ranked, count // 2, seen)
        return best + _take(_shuffled(rng, ranked), count - len(best), seen)

    chosen = _take(_shuffled(rng, population), mix.sampled, seen)
    if mix.mutated:
        evolved = random_policy.evolutionary_search(population, 4 * mix.mutated)
        chosen += _take(_shuffled(rng, evolved), mix.mutated, seen)
    if mix.guided and scorer is not None:
        model, _ = create_cost_model(tvm, "world-model", scorer=scorer, round_size=1, seed=seed)
        chosen += evolved_under(model, mix.guided, _SIZE)
    if mix.boosted and len(inputs):
        model, _ = create_cost_model(tvm, "xgboost", scorer=None, round_size=1, seed=seed)
        chosen += evolved_under(model, mix.boosted, _DEEPER)
    wanted = sum(dataclasses.astuple(mix))
    chosen += _take(_shuffled(rng, population), wanted - len(chosen), seen)
    # Ansor shows a state's measuring order to nothing, but a drift should touch all origins.
    return _shuffled(rng, chosen)


def _random_model(tvm: Any, seed: int) -> Any:
    return create_cost_model(tvm, "random", scorer=None, round_size=1, seed=seed)[0]


def _shuffled(rng: np.random.Generator, states: Sequence[Any]) -> list[Any]:
    return [states[at] for at in rng.permutation(len(states))]


def _take(states: Sequence[Any], count: int, seen: set[str]) -> list[Any]:
    taken: list[Any] = []
    for state in states:
        if len(taken) >= count:
            break
        shown = str(state)
        if shown not in seen:
            seen.add(shown)
            taken.append(state)
    return taken
