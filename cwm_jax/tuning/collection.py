"""Collecting a corpus: rounds of candidates over many tasks, on one machine, resumable."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from cwm_jax.errors import CorpusError
from cwm_jax.records.graph import ComputeGraph, add_graphs
from cwm_jax.records.lines import LogSummary, drop_unfinished_member
from cwm_jax.records.logs import iterate_records, load_records
from cwm_jax.records.record import Record
from cwm_jax.tuning.corpus import Corpus, CorpusTask, read_tasks, write_tasks
from cwm_jax.tuning.interrupts import Interrupt, watch_interrupts
from cwm_jax.tuning.machine import note_machine
from cwm_jax.tuning.measurement import SteadyMeasurer


@dataclasses.dataclass(frozen=True)
class Mix:
    """How many candidates of each origin a round measures.

    Attributes:
        sampled: Random samples of the sketches.
        mutated: From evolution under a random model.
        guided: From evolution under the world model, half of them its favourites.
        boosted: From evolution under the engine's XGBoost model, trained on the task's records
            so far, favourites among them.
    """

    sampled: int
    mutated: int
    guided: int
    boosted: int = 0


def mix_of_round(earlier: int, size: int, *, guided: bool, boosted: bool = False) -> Mix:
    """Returns the mix of a task's next round.

    Args:
        earlier: Records that the task has.
        size: Candidates of the round.
        guided: Whether there is a world model.
        boosted: Whether XGBoost can learn from the task's records, and find what the world
            model that guides does not know.
    """
    if not guided:
        sampled = size // 2 if earlier == 0 else size // 4
        return Mix(sampled, size - sampled, 0)
    if earlier == 0:
        sampled, mutated = size // 4, size // 4
    else:
        sampled, mutated = size // 16, size // 8
    rest = size - sampled - mutated
    learned = rest // 2 if boosted and earlier else 0
    return Mix(sampled, mutated, rest - learned, learned)


_REMEASURED_TOGETHER = 16


@dataclasses.dataclass(frozen=True)
class CollectionConfig:
    """How much to collect.

    Attributes:
        records_per_workload: Candidates to measure of each workload, earlier ones included.
        round_size: Candidates of one workload measured together.
        seconds: Stop after the round in which so much time has passed; None for no limit.
        seed: Seed of the candidates.
    """

    records_per_workload: int = 32
    round_size: int = 32
    seconds: float | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class CollectedRound:
    """What one round did.

    Attributes:
        workload_key: Key of the task.
        measured: Records of this round.
        valid: Those that succeeded.
        attempts: How often candidates ran until the machine was steady around each.
        total: Records of the corpus so far.
        first_error: What TVM said of the round's first failure, or "".
    """

    workload_key: str
    measured: int
    valid: int
    attempts: int
    total: int
    first_error: str


class Drawn(NamedTuple):
    """Candidates of one task, ready to be measured.

    Attributes:
        inputs: Inputs of the engine's `Device`.
        keep: Appends their results to the corpus.
    """

    inputs: Sequence[Any]
    keep: Callable[[Sequence[Any]], None]


class Collector(Protocol):
    """Draws, rebuilds and keeps the candidates of a corpus, for one engine."""

    def graph(self, task: CorpusTask) -> ComputeGraph:
        """Returns the compute graph of a task."""
        ...

    def draw(self, corpus: Corpus, task: CorpusTask, size: int, seed: int, earlier: int) -> Drawn:
        """Draws new candidates of a task; fewer than asked for where there are no more.

        Args:
            corpus: Where the results will go.
            task: Task of the corpus.
            size: How many.
            seed: Seed of the draw.
            earlier: Records that the corpus holds of the task.
        """
        ...

    def again(self, corpus: Corpus, records: Sequence[tuple[CorpusTask, Record]]) -> Drawn:
        """Returns recorded candidates; their results are kept as measured again."""
        ...

    def error(self, result: Any) -> str:
        """Returns what went wrong with a candidate, "" if nothing did."""
        ...


def open_corpus(
    collector: Collector,
    folder: Path,
    machine: dict[str, Any],
    plan: Callable[[], list[CorpusTask]],
    *,
    extend: bool = False,
) -> tuple[list[CorpusTask], set[str]]:
    """Creates a corpus, or checks and mends one that exists.

    Args:
        collector: Reads programs.
        folder: Folder of the corpus.
        machine: Identity of this machine; a corpus holds records of one only.
        plan: Lists the tasks of a new corpus.
        extend: Whether one that exists takes in those that it lacks.

    Returns:
        All tasks of the corpus, and the workload keys of those that the plan lists: all where it
        was not asked.

    Raises:
        CorpusError: The corpus belongs to other hardware, or is damaged.
    """
    corpus = Corpus(folder)
    if corpus.records.exists() and not corpus.machine.exists():
        raise CorpusError(f"{corpus.folder}: has records but no {corpus.machine.name}")
    if corpus.records.exists() and not corpus.tasks.exists():
        raise CorpusError(
            f"{corpus.folder}: has records but no {corpus.tasks.name}; for a corpus of the "
            "repository, unpack tools/corpus/collection.tar.xz first (CONTRIBUTING.md)"
        )
    note_machine(corpus.machine, machine)
    tasks = read_tasks(corpus.tasks) if corpus.tasks.exists() else []
    known = {task.workload_key for task in tasks}
    planned = plan() if extend or not tasks else tasks
    added = [task for task in planned if task.workload_key not in known]
    tasks += added
    # Before the tasks: no task may lack its graph.
    if added or not corpus.graphs.exists():
        add_graphs(map(collector.graph, tasks), corpus.graphs)
    if added:
        write_tasks(corpus.tasks, tasks)
    for log in (corpus.records, corpus.traces, corpus.remeasured):
        if log.exists():
            drop_unfinished_member(log)
    return tasks, {task.workload_key for task in planned}


def collect(
    collector: Collector,
    folder: Path,
    tasks: list[CorpusTask],
    measurer: SteadyMeasurer,
    config: CollectionConfig,
    *,
    report: Callable[[CollectedRound], None] = lambda _: None,
) -> None:
    """Measures until every task has its records; every finished round is on disk.

    Tasks take turns, so that a corpus which is stopped early covers all of them.

    Raises:
        CorpusError: The machine did not become steady.
        KeyboardInterrupt: On Ctrl-C; the round under way is dropped.
    """
    with watch_interrupts() as interrupt:
        _collect(collector, Corpus(folder), tasks, measurer, config, report, interrupt)


def _collect(
    collector: Collector,
    corpus: Corpus,
    tasks: list[CorpusTask],
    measurer: SteadyMeasurer,
    config: CollectionConfig,
    report: Callable[[CollectedRound], None],
    interrupt: Interrupt,
) -> None:
    started = time.monotonic()
    counts = _counts(corpus)
    exhausted: set[str] = set()
    while True:
        open_tasks = [
            task
            for task in tasks
            if counts[task.workload_key] < config.records_per_workload
            and task.workload_key not in exhausted
        ]
        if not open_tasks:
            return
        least = min(counts[task.workload_key] for task in open_tasks)
        for task in open_tasks:
            key = task.workload_key
            if counts[key] >= least + config.round_size:
                continue
            if config.seconds is not None and time.monotonic() - started > config.seconds:
                return
            size = min(config.round_size, config.records_per_workload - counts[key])
            seed = config.seed + 7919 * counts[key]
            drawn = collector.draw(corpus, task, size, seed, counts[key])
            done = _round(collector, corpus, key, measurer, drawn, interrupt)
            counts[key] += done.measured
            if done.measured < size:
                exhausted.add(key)
            report(dataclasses.replace(done, total=sum(counts.values())))


def _counts(corpus: Corpus) -> Counter[str]:
    if not corpus.records.exists():
        return Counter()
    found = iterate_records(corpus.records, LogSummary())
    return Counter(record.workload_key for record in found)


def _round(
    collector: Collector,
    corpus: Corpus,
    workload_key: str,
    measurer: SteadyMeasurer,
    drawn: Drawn,
    interrupt: Interrupt,
) -> CollectedRound:
    before = len(measurer.history)
    results = measurer.measure(drawn.inputs)
    if interrupt.requested:
        # Ctrl-C on a terminal also kills the programs under way, which look like failures.
        raise KeyboardInterrupt
    if results:
        drawn.keep(results)
    errors = [error for result in results if (error := collector.error(result))]
    return CollectedRound(
        workload_key=workload_key,
        measured=len(results),
        valid=len(results) - len(errors),
        attempts=len(measurer.history) - before,
        total=0,
        first_error=errors[0] if errors else "",
    )


def remeasure_some(
    collector: Collector,
    folder: Path,
    tasks: list[CorpusTask],
    measurer: SteadyMeasurer,
    count: int,
    seed: int,
    report: Callable[[int], None] = lambda _: None,
) -> None:
    """Measures a random sample of the valid records again, to know the noise.

    Args:
        collector: Collector of the corpus's engine.
        folder: Folder of the corpus.
        tasks: Tasks of the corpus.
        measurer: As for `collect`.
        count: Size of the sample.
        seed: Seed of the sample.
        report: Called with the number of records measured so far.
    """
    corpus = Corpus(folder)
    valid = [r for r in load_records(corpus.records, summary=LogSummary()) if r.valid]
    rng = np.random.default_rng(seed)
    sample = [valid[at] for at in rng.permutation(len(valid))[:count]]
    by_key = {task.workload_key: task for task in tasks}
    for start in range(0, len(sample), _REMEASURED_TOGETHER):
        part: list[Record] = sample[start : start + _REMEASURED_TOGETHER]
        drawn = collector.again(corpus, [(by_key[r.workload_key], r) for r in part])
        drawn.keep(measurer.measure(drawn.inputs))
        report(start + len(part))
