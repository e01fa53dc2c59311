"""Ansor's part in collecting a corpus."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.lines import LogSummary, append_member
from cwm_jax.records.logs import iterate_records
from cwm_jax.records.record import Record
from cwm_jax.tuning.ansor.cost_models import create_cost_model
from cwm_jax.tuning.ansor.sketch import Size, sketch_policy
from cwm_jax.tuning.ansor.tasks import search_task
from cwm_jax.tuning.collection import Drawn, Mix, mix_of_round
from cwm_jax.tuning.corpus import Corpus, CorpusTask
from cwm_jax.tvm_bridge.ansor.graphs import first_error, graph_of_task

# A corpus wants variety, not the optimum: a fraction of Ansor's population and generations.
_SIZE = Size(256, 3)
# But where a task's own records train the model, they lead to what other models do not know.
_DEEPER = Size(1024, 4)


class AnsorCollector:
    """Draws Ansor's candidates and keeps them as Ansor's log.

    Args:
        tvm: A TVM with Ansor.
        scorer: The world model that guides, if any.
    """

    def __init__(self, tvm: Any, scorer: Scorer | None) -> None:
        self._tvm, self._scorer = tvm, scorer

    def graph(self, task: CorpusTask) -> ComputeGraph:
        """Returns the compute graph of a task."""
        return graph_of_task(self._tvm, search_task(self._tvm, task))

    def draw(self, corpus: Corpus, task: CorpusTask, size: int, seed: int, earlier: int) -> Drawn:
        """Draws new candidates of a task; fewer than asked for where there are no more."""
        searched = search_task(self._tvm, task)
        states = draw_candidates(
            self._tvm,
            searched,
            mix_of_round(earlier, size, guided=self._scorer is not None, boosted=True),
            seed,
            scorer=self._scorer,
            measured=self._measured(corpus, searched, earlier),
        )
        inputs = [self._tvm.auto_scheduler.MeasureInput(searched, state) for state in states]
        return Drawn(inputs, lambda results: self._append(corpus.records, inputs, results))

    def again(self, corpus: Corpus, records: Sequence[tuple[CorpusTask, Record]]) -> Drawn:
        """Returns recorded candidates; their results are kept as measured again."""
        ansor = self._tvm.auto_scheduler
        inputs = []
        for task, record in records:
            loaded, _ = ansor.measure_record.load_record_from_string(format_line(record))
            inputs.append(ansor.MeasureInput(search_task(self._tvm, task), loaded.state))
        return Drawn(inputs, lambda results: self._append(corpus.remeasured, inputs, results))

    def error(self, result: Any) -> str:
        """Returns what went wrong with a candidate, "" if nothing did."""
        return first_error([result]) or "unknown" if int(result.error_no) != 0 else ""

    def _append(self, path: Path, inputs: Sequence[Any], results: Sequence[Any]) -> None:
        dump = self._tvm.auto_scheduler.measure_record.dump_record_to_string
        pairs = zip(inputs, results, strict=True)
        append_member(path, (str(dump(item, result)).strip() for item, result in pairs))

    def _measured(self, corpus: Corpus, task: Any, earlier: int) -> tuple[list[Any], list[Any]]:
        """What the corpus holds of a task, as TVM's objects."""
        if earlier == 0:
            return [], []
        ansor = self._tvm.auto_scheduler
        inputs, results = [], []
        for record in iterate_records(corpus.records, LogSummary()):
            if record.workload_key == str(task.workload_key):
                loaded, result = ansor.measure_record.load_record_from_string(format_line(record))
                state = task.compute_dag.infer_bound_from_state(loaded.state)
                inputs.append(ansor.MeasureInput(task, state))
                results.append(result)
        return inputs, results


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
        seed: Seed of the draw.
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
