"""Rounds of a search: each finds candidates, measures them, and appends them to the log."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cwm_jax.errors import TargetError
from cwm_jax.features.schedule_state import MAX_STAGES
from cwm_jax.records.ansor_log import append_records, format_line
from cwm_jax.records.record import Record
from cwm_jax.search.planner import PlannerConfig
from cwm_jax.tuning.ansor.measure import LOST_ROUNDS, device_lost
from cwm_jax.tuning.ansor.session import SearchSession
from cwm_jax.tuning.ansor.settings import TuningConfig
from cwm_jax.tuning.ansor.sketch import search_size, sketch_policy
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tuning.loop import Counts, TaskRound
from cwm_jax.tuning.tracker import Tracker
from cwm_jax.tvm_bridge.ansor.states import first_error, latency_of

_INSERTED_STAGES = 20
"""Room for stages that schedules add: copies of buffers, and parts of reductions."""


class Found(NamedTuple):
    """What a round brought.

    Attributes:
        results: `auto_scheduler.MeasureResult` of each candidate; none when the search space is
            exhausted.
        seconds: In search, in the cost model, in building and running.
        counts: A planner's.
    """

    results: Sequence[Any]
    seconds: tuple[float, float, float]
    counts: Counts = Counts()

    def told(self) -> TaskRound:
        """Returns the same without TVM's objects."""
        latencies = [latency_of(result) for result in self.results]
        return TaskRound(latencies, self.seconds, first_error(self.results), self.counts)


NextRound = Callable[[int], Found]
"""Number of candidates -> what a round of at most so many brought."""

_Wanted = TypeVar("_Wanted")


def start_search(session: SearchSession, task: Any, earlier: list[Record]) -> NextRound:
    """Prepares the search of one task.

    Args:
        session: Shared with other tasks.
        task: `auto_scheduler.SearchTask`.
        earlier: Records of this task that are measured already.

    Returns:
        The function of a round. A round in which a remote device was lost is dropped from the
        log and comes back whole, and the search goes on with other candidates.

    Raises:
        TargetError: No remote device answers; also by a round, after `LOST_ROUNDS` in a row.
    """
    start = _planner if session.config.search == "planner" else _evolution
    return _until_answered(start(session, task, earlier), session.config.tracker, session.log)


def start_confirming(session: SearchSession, task: Any) -> Callable[[Sequence[Record]], Found]:
    """Prepares measuring recorded programs of a task again.

    Args:
        session: Shared with other tasks.
        task: `auto_scheduler.SearchTask`.

    Returns:
        The function of a round: takes one record of each program, and raises `TargetError` as
        that of `start_search` does.
    """
    ansor = session.tvm.auto_scheduler

    def again(records: Sequence[Record]) -> Found:
        started = time.perf_counter()
        inputs = _inputs_of(ansor, task, records)
        results = session.measuring.measure(inputs)
        seconds = time.perf_counter() - started
        if session.interrupt.requested:
            raise KeyboardInterrupt
        _append(ansor, session.log, inputs, results)
        return Found(results, (0.0, 0.0, seconds))

    return _until_answered(again, session.config.tracker, session.log)


def _until_answered(
    act: Callable[[_Wanted], Found], tracker: Tracker | None, log: Path
) -> Callable[[_Wanted], Found]:
    """Repeats a round in which a remote device was lost, and drops it from the log."""
    if tracker is None:
        return act

    def answered(wanted: _Wanted) -> Found:
        for _ in range(LOST_ROUNDS):
            before = _size(log)
            found = act(wanted)
            if not device_lost(found.results):
                return found
            _truncate(log, before)
        raise TargetError(f"tracker {tracker}: the device has not answered for several rounds")

    return answered


def _evolution(session: SearchSession, task: Any, earlier: list[Record]) -> NextRound:
    """Rounds of Ansor's own search."""
    ansor, model, clock = session.tvm.auto_scheduler, session.model, session.clock
    callbacks = []
    with _log_of(earlier) as earlier_log:
        if earlier_log is not None:
            callbacks.append(ansor.PreloadMeasuredStates(str(earlier_log)))
            model.update_from_file(str(earlier_log))
        policy = sketch_policy(
            session.tvm,
            task,
            _search_seed(session.config, earlier),
            model=model,
            size=search_size(session.config.population),
            callbacks=callbacks,
        )
    measurer = session.measuring.program_measurer()

    def next_round(size: int) -> Found:
        clock.calls.clear()
        started = time.perf_counter()
        with session.measuring.of_ansor():
            inputs, results = _one_round(policy, size, measurer, session.interrupt, session.log)
        if len(inputs) == 0:
            return Found((), (0.0, 0.0, 0.0))
        return Found(results, _phases(started, clock.calls, time.perf_counter()))

    return next_round


def _planner(session: SearchSession, task: Any, earlier: list[Record]) -> NextRound:
    """Rounds of the planner, or of Ansor where a program has more stages than it replays."""
    from cwm_jax.tuning.ansor.sketch import PlannedSearch

    ansor, model = session.tvm.auto_scheduler, session.model
    if len(model.graph(task).stages) > MAX_STAGES - _INSERTED_STAGES:
        return _evolution(session, task, earlier)
    seed = _search_seed(session.config, earlier)
    planner = PlannerConfig(population=session.config.population)
    search = PlannedSearch(session.tvm, task, model, session.measuring.measure, seed, planner)
    with _log_of(earlier) as earlier_log:
        if earlier_log is not None:
            model.update_from_file(str(earlier_log))
            search.remember(_inputs_of(ansor, task, earlier))

    def next_round(size: int) -> Found:
        started = time.perf_counter()
        try:
            found = search.round(size)
        except Exception:  # what a killed builder is to TVM
            if session.interrupt.requested:
                raise KeyboardInterrupt from None
            raise
        seconds = time.perf_counter() - started
        if session.interrupt.requested:
            raise KeyboardInterrupt
        _append(ansor, session.log, found.inputs, found.results)
        rest = seconds - found.model_seconds - found.measure_seconds
        return Found(
            found.results,
            (rest, found.model_seconds, found.measure_seconds),
            Counts(imagined=found.imagined, proposed=found.proposed, rejected=found.rejected),
        )

    return next_round


def _inputs_of(ansor: Any, task: Any, records: Sequence[Record]) -> list[Any]:
    """Returns the `MeasureInput`s of records of a task."""
    load = ansor.measure_record.load_record_from_string
    return [ansor.MeasureInput(task, load(format_line(record))[0].state) for record in records]


def _append(ansor: Any, log: Path, inputs: Sequence[Any], results: Sequence[Any]) -> None:
    """Appends measurements to an Ansor log."""
    dump = ansor.measure_record.dump_record_to_string
    with log.open("a") as file:
        for measured, result in zip(inputs, results, strict=True):
            file.write(str(dump(measured, result)).strip() + "\n")


def _search_seed(config: TuningConfig, earlier: list[Record]) -> int:
    """Another seed than the first run's: the same samples would be drawn and skipped."""
    return config.seed + 1 + 1000 * len(earlier)


def _one_round(
    policy: Any, size: int, measurer: Any, interrupt: Interrupt, log: Path
) -> tuple[Any, Any]:
    """Searches and measures; an interrupted round leaves no trace in the log.

    Ctrl-C on a terminal also kills the programs being built and run, which would go into the
    log as failures of theirs.
    """
    before = _size(log)
    try:
        found = policy.continue_search_one_round(size, measurer)
        if not interrupt.requested:
            return found
    except Exception:  # what TVM makes of SearchInterrupted depends on its version
        if not interrupt.requested:
            raise
    _truncate(log, before)
    raise KeyboardInterrupt


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
    started: float, calls: list[tuple[float, float]], ended: float
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
def _log_of(records: list[Record]) -> Iterator[Path | None]:
    """A temporary log that TVM can read whole, whatever the original holds beside it."""
    if not records:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="cwm-") as work:
        path = Path(work) / "earlier.json"
        append_records(path, records)
        yield path
