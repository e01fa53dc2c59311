"""A search by Ansor: its log, what measures, and rounds of TVM's own evolutionary search."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cwm_jax.errors import RecordError, TargetError
from cwm_jax.features.schedule_state import MAX_STAGES
from cwm_jax.files import append_lines
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import append_records, format_line
from cwm_jax.records.graph import add_graphs, graphs_path
from cwm_jax.records.lines import LogSummary, is_packed
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Record
from cwm_jax.search.planner import PlannerConfig
from cwm_jax.search.rounds import PlannerSource, Schedule
from cwm_jax.tuning.ansor.cost_models import create_cost_model
from cwm_jax.tuning.ansor.measure import (
    LOST_ROUNDS,
    SearchMeasuring,
    device_lost,
    learning_from_answers,
)
from cwm_jax.tuning.ansor.sketch import POPULATION, SketchSpace, search_size, sketch_policy
from cwm_jax.tuning.engine import RoundResult, Task, TaskSearch
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tuning.loop import RankedSearch, remeasured
from cwm_jax.tuning.measurement import TuningConfig
from cwm_jax.tvm_bridge.ansor.graphs import first_error, latency_of

_INSERTED_STAGES = 20
"""Room for stages that schedules add: copies of buffers, and parts of reductions."""

_Wanted = TypeVar("_Wanted")


class AnsorSession:
    """A search's log, cost model and measuring (`cwm_jax.tuning.engine.Session`).

    Args:
        tvm: A TVM with Ansor.
        tasks: The tasks to search, all on one target.
        config: Settings.
        log: Ansor log that every round is appended to.
        scorer: Checkpoint of the world model, if that is the cost model.
        resume: Whether the log is there to be gone on with.
        interrupt: Whether the user asked to stop.
        learn_every: Measurements after which a cost model that trains does so.

    Raises:
        RecordError: The log cannot be gone on with, or was measured otherwise.
        TargetError: The settings ask for references on another device than this CPU.
    """

    def __init__(
        self,
        tvm: Any,
        tasks: Sequence[Task],
        config: TuningConfig,
        log: Path,
        scorer: Scorer | None,
        *,
        resume: bool,
        interrupt: Interrupt,
        learn_every: int,
    ) -> None:
        target = tasks[0].handle.target
        self._tasks, self._target, self._log = tasks, str(target), log
        self._tvm, self._config, self._interrupt = tvm, config, interrupt
        keys = [task.workload_key for task in tasks]
        found = resumable_records(log, keys, self._target) if resume else []
        self.earlier = [[r for r in found if r.workload_key == key] for key in keys]
        log.parent.mkdir(parents=True, exist_ok=True)
        # Training on this log needs the compute graphs, and should not need TVM.
        add_graphs([task.graph for task in tasks], graphs_path(log))
        self._model, self._clock = create_cost_model(
            tvm,
            config.cost_model,
            scorer=scorer,
            round_size=learn_every,
            seed=config.seed,
            adaptation=config.adaptation,
            pretrain=config.pretrain,
        )
        self._model.predict = interrupt.guard(self._model.predict)
        self._model.update = interrupt.guard(self._model.update)
        if config.tracker is not None:
            self._model.update = learning_from_answers(self._model.update)
        self._measuring = SearchMeasuring(tvm, target, config, log, interrupt)
        self._searches: dict[int, TaskSearch] = {}

    def search(self, task: int) -> TaskSearch:
        """Begins, or goes on with, the search of a task."""
        if task not in self._searches:
            self._searches[task] = self._begin(self._tasks[task].handle, self.earlier[task])
        return self._searches[task]

    def records(self, task: int) -> list[Record]:
        """Returns the records of a task in the log."""
        found = load_records(self._log, summary=LogSummary()) if self._log.exists() else []
        key = self._tasks[task].workload_key
        return [r for r in found if r.workload_key == key and r.target == self._target]

    def give_up(self, task: int, error: Exception) -> None:
        """Raises the error: Ansor has no failures that are one task's alone."""
        raise error

    def _begin(self, task: Any, earlier: Sequence[Record]) -> TaskSearch:
        """Begins to plan, or to evolve where a task has more stages than a planner replays."""
        trials = _LoggedTrials(self._tvm, task, self._measuring, self._log)
        # Another seed than the first run's: the same samples would be drawn and skipped.
        seed = self._config.seed + 1 + 1000 * len(earlier)
        population = self._config.population or POPULATION
        model, graph = self._model, None
        with _log_of(earlier) as earlier_log:
            if self._config.search == "planner":
                graph = model.graph(task)
            if graph is None or len(graph.stages) > MAX_STAGES - _INSERTED_STAGES:
                callbacks = []
                if earlier_log is not None:
                    callbacks.append(
                        self._tvm.auto_scheduler.PreloadMeasuredStates(str(earlier_log))
                    )
                    model.update_from_file(str(earlier_log))
                size = search_size(population)
                policy = sketch_policy(
                    self._tvm, task, seed, model=model, size=size, callbacks=callbacks
                )
                search: TaskSearch = _EvolutionarySearch(
                    policy, trials, self._measuring, self._clock, self._interrupt, self._log
                )
            else:
                source = PlannerSource(
                    graph,
                    SketchSpace(self._tvm, task, seed, population),
                    model.online,
                    self._clock,
                    lambda candidates, results: model.update(list(candidates.values()), results),
                    seed,
                    PlannerConfig(population=population),
                )
                if earlier_log is not None:
                    model.update_from_file(str(earlier_log))
                    source.remember([record.steps for record in earlier])
                search = RankedSearch(
                    graph, source, trials, model.online, self._clock, self._interrupt
                )
        if self._config.tracker is None:
            return search
        return _RemoteSearch(search, trials, self._config.tracker, self._log)


def resumable_records(log: Path, workload_keys: Sequence[str], target: str) -> list[Record]:
    """Reads the records of a log that belong to a search, and ends an unfinished last line.

    Lines of other workloads and targets stay, and count nothing.

    Args:
        log: Ansor log.
        workload_keys: Keys of the tasks that are searched.
        target: TVM target string.

    Raises:
        RecordError: The log cannot be read or added to, or holds only other workloads or targets.
    """
    if is_packed(log):
        raise RecordError(f"{log}: cannot be added to, unpack it by `gunzip` first")
    summary = LogSummary()
    found = load_records(log, summary=summary)
    mine = [r for r in found if r.workload_key in workload_keys and r.target == target]
    if not mine:
        other = found[0]
        raise RecordError(
            f"{log}: cannot resume, it holds {other.workload_key} on {other.target!r}, "
            f"expected {' or '.join(list(workload_keys)[:3])} on {target!r}"
        )
    append_lines(log, [])
    return mine


class _LoggedTrials:
    """Measures the candidates of a task and appends them to an Ansor log.

    Attributes:
        lost: Whether the device went away during the last measurements.
    """

    def __init__(self, tvm: Any, task: Any, measuring: SearchMeasuring, log: Path) -> None:
        self._ansor, self._task, self._measuring, self._log = (
            tvm.auto_scheduler,
            task,
            measuring,
            log,
        )
        self.lost = False

    def measure(self, candidates: Sequence[Any]) -> Sequence[Any]:
        results = self._measuring.measure(candidates)
        self.lost = device_lost(results)
        return results

    def keep(self, candidates: Mapping[Schedule, Any], results: Sequence[Any]) -> None:
        dump = self._ansor.measure_record.dump_record_to_string
        with self._log.open("a") as file:
            for measured, result in zip(candidates.values(), results, strict=True):
                file.write(str(dump(measured, result)).strip() + "\n")

    def latencies(self, results: Sequence[Any]) -> tuple[float, ...]:
        return tuple(latency_of(result) for result in results)

    def first_error(self, results: Sequence[Any]) -> str:
        return first_error(results)

    def load(self, records: Sequence[Record]) -> Mapping[Schedule, Any]:
        load = self._ansor.measure_record.load_record_from_string
        return {
            record.steps: self._ansor.MeasureInput(self._task, load(format_line(record))[0].state)
            for record in records
        }


class _EvolutionarySearch:
    """Rounds of TVM's own search, which measures and keeps what it finds by itself."""

    def __init__(
        self,
        policy: Any,
        trials: _LoggedTrials,
        measuring: SearchMeasuring,
        clock: Any,
        interrupt: Interrupt,
        log: Path,
    ) -> None:
        self._policy, self._trials, self._measuring = policy, trials, measuring
        self._measurer = measuring.program_measurer()
        self._clock, self._interrupt, self._log = clock, interrupt, log

    def round(self, count: int) -> RoundResult:
        """Lets TVM search and measure; an interrupted round leaves no trace in the log.

        Ctrl-C on a terminal also kills the programs being built and run, which would go into the
        log as failed candidates.
        """
        self._clock.calls.clear()
        before, started = _size(self._log), time.perf_counter()
        inputs: Sequence[Any] = ()
        results: Sequence[Any] = ()
        try:
            with self._measuring.of_ansor():
                inputs, results = self._policy.continue_search_one_round(count, self._measurer)
        except Exception:  # what TVM makes of SearchInterrupted depends on its version
            if not self._interrupt.requested:
                raise
        if self._interrupt.requested:
            _truncate(self._log, before)
            raise KeyboardInterrupt
        if len(inputs) == 0:
            return RoundResult()
        self._trials.lost = device_lost(results)
        search, model, measure = _phases(started, self._clock.calls, time.perf_counter())
        return RoundResult(
            latencies=self._trials.latencies(results),
            search_seconds=search,
            model_seconds=model,
            measure_seconds=measure,
            first_error=first_error(results),
        )

    def remeasure(self, records: Sequence[Record]) -> RoundResult:
        """Measures recorded candidates again, and keeps the results."""
        return remeasured(self._trials, records, self._interrupt)

    def close(self) -> None:
        """Does nothing: TVM's policy holds nothing open."""


class _RemoteSearch:
    """Repeats rounds in which the device was lost, with other candidates.

    What such a round appended is dropped from the log.
    """

    def __init__(self, search: TaskSearch, trials: _LoggedTrials, tracker: Any, log: Path) -> None:
        self._search, self._trials, self._tracker, self._log = search, trials, tracker, log

    def round(self, count: int) -> RoundResult:
        return self._until_answered(self._search.round, count)

    def remeasure(self, records: Sequence[Record]) -> RoundResult:
        return self._until_answered(self._search.remeasure, records)

    def close(self) -> None:
        self._search.close()

    def _until_answered(
        self, act: Callable[[_Wanted], RoundResult], wanted: _Wanted
    ) -> RoundResult:
        for _ in range(LOST_ROUNDS):
            before, self._trials.lost = _size(self._log), False
            found = act(wanted)
            if not self._trials.lost:
                return found
            _truncate(self._log, before)
        raise TargetError(
            f"tracker {self._tracker}: the device has not answered for several rounds"
        )


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _truncate(log: Path, size: int) -> None:
    if not log.exists():
        return
    with log.open("rb+") as file:
        file.truncate(size)
    if size == 0:
        log.unlink()


def _phases(
    started: float, calls: Sequence[tuple[float, float]], ended: float
) -> tuple[float, float, float]:
    """Splits a round into search, model and measuring.

    Ansor asks the model to predict while it searches, then measures, then updates the model:
    measuring lies between the last two calls.
    """
    model = sum(end - start for start, end in calls)
    search_end = calls[-2][1] if len(calls) > 1 else started
    measuring = calls[-1][0] - search_end
    return ended - started - model - measuring, model, measuring


@contextmanager
def _log_of(records: Sequence[Record]) -> Iterator[Path | None]:
    """A temporary log that TVM can read whole, whatever the original holds beside it."""
    if not records:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="cwm-") as work:
        path = Path(work) / "earlier.json"
        append_records(path, records)
        yield path
