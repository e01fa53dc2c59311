"""One Ansor search on this machine: rounds of search and measurement, logged and resumable."""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cwm_jax.errors import RecordError
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import LogSummary, append_records, format_line, load_records
from cwm_jax.records.record import Record
from cwm_jax.tvm_bridge.cost_models import Clock, CostModelName, create_cost_model
from cwm_jax.tvm_bridge.interrupts import Interrupt, watch_interrupts

SearchName = Literal["evolutionary", "planner"]


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """Settings of a search.

    Attributes:
        trials: Candidates to measure in all, those of a resumed log included.
        round_size: Candidates a round; the model learns between rounds.
        cost_model: Which model ranks.
        seed: Of the search.
        build_timeout: Seconds that one candidate may compile.
        run_timeout: Seconds that one candidate may run.
        min_repeat_ms: One measurement repeats the program for at least so long.
        search: Ansor's evolutionary search, or the planner, which needs the world model.
    """

    trials: int
    round_size: int = 16
    cost_model: CostModelName = "world-model"
    seed: int = 0
    build_timeout: int = 30
    run_timeout: int = 15
    min_repeat_ms: int = 40
    search: SearchName = "evolutionary"


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round did; times are wall-clock seconds.

    Attributes:
        trials: Candidates measured so far.
        latencies: Of this round's candidates in seconds, infinity for failures.
        best_latency: Best so far in seconds.
        search_seconds: Search without the model.
        model_seconds: In the cost model.
        measure_seconds: Building and running.
        imagined: Schedules that a planner scored.
        proposed: Schedules that it handed to TVM.
        rejected: Those that TVM refused.
    """

    trials: int
    latencies: tuple[float, ...]
    best_latency: float
    search_seconds: float
    model_seconds: float
    measure_seconds: float
    imagined: int = 0
    proposed: int = 0
    rejected: int = 0


class _Found(NamedTuple):
    """What a round brought: results, seconds in search, model and measuring, planner's counts."""

    results: Sequence[Any]
    seconds: tuple[float, float, float]
    counts: tuple[int, int, int] = (0, 0, 0)


@dataclasses.dataclass(frozen=True)
class TuningResult:
    """Outcome of a search.

    Attributes:
        workload_key: Ansor's workload key.
        target: TVM target string.
        latencies: Of every trial in order, in seconds, infinity for failures; a resumed log's
            come first.
        rounds: The rounds of this run.
        best: The fastest record, None if no trial succeeded.
        first_error: What TVM said of the first failed trial of this run, or "".
        stopped_early: Whether the search space ran out before the trials did.
    """

    workload_key: str
    target: str
    latencies: tuple[float, ...]
    rounds: tuple[Round, ...]
    best: Record | None
    first_error: str
    stopped_early: bool


def resumable_records(log: Path, workload_key: str, target: str) -> list[Record]:
    """Reads the records of a log that belong to a search, and mends an unfinished last line.

    Raises:
        RecordError: The log cannot be read, or holds only other workloads or targets.
    """
    summary = LogSummary()
    found = load_records(log, summary=summary)
    mine = [r for r in found if (r.workload_key, r.target) == (workload_key, target)]
    if not mine:
        other = found[0]
        raise RecordError(
            f"{log}: cannot resume, it holds {other.workload_key} on {other.target!r}, "
            f"expected {workload_key} on {target!r}"
        )
    with log.open("rb+") as file:
        file.seek(-1, 2)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return mine


def tune_task(
    tvm: Any,
    task: Any,
    config: TuningConfig,
    log: Path,
    *,
    scorer: Scorer | None = None,
    earlier: list[Record] | None = None,
    report: Callable[[Round], None] = lambda _: None,
) -> TuningResult:
    """Searches for a fast schedule of a task; every measured round is appended to the log.

    Args:
        tvm: A TVM with Ansor.
        task: `auto_scheduler.SearchTask`.
        config: Settings.
        log: Ansor log to append to.
        scorer: Checkpoint of the world model, if that is the cost model.
        earlier: Records of this task that are measured already.
        report: Called after every round.

    Raises:
        KeyboardInterrupt: On Ctrl-C; the log holds all finished rounds.
    """
    earlier = earlier or []
    model, clock = create_cost_model(
        tvm, config.cost_model, scorer=scorer, round_size=config.round_size, seed=config.seed
    )
    latencies = [record.latency for record in earlier]
    rounds: list[Round] = []
    first_error, stopped_early = "", False
    with watch_interrupts() as interrupt:
        start = _planner if config.search == "planner" else _evolution
        next_round = start(tvm, task, config, log, model, clock, earlier, interrupt)
        while len(latencies) < config.trials:
            found = next_round(min(config.round_size, config.trials - len(latencies)))
            if len(found.results) == 0:
                stopped_early = True
                break
            first_error = first_error or _first_error(found.results)
            round_latencies = tuple(_latency(result) for result in found.results)
            latencies.extend(round_latencies)
            rounds.append(
                Round(
                    len(latencies), round_latencies, min(latencies), *found.seconds, *found.counts
                )
            )
            report(rounds[-1])
    return TuningResult(
        workload_key=task.workload_key,
        target=str(task.target),
        latencies=tuple(latencies),
        rounds=tuple(rounds),
        best=_best(earlier, log, task),
        first_error=first_error,
        stopped_early=stopped_early,
    )


def _evolution(
    tvm: Any,
    task: Any,
    config: TuningConfig,
    log: Path,
    model: Any,
    clock: Clock,
    earlier: list[Record],
    interrupt: Interrupt,
) -> Callable[[int], _Found]:
    """Rounds of Ansor's own search."""
    ansor = tvm.auto_scheduler
    model.predict, model.update = (
        interrupt.guard(function) for function in (model.predict, model.update)
    )
    callbacks = []
    with _log_of(earlier) as earlier_log:
        if earlier_log is not None:
            callbacks.append(ansor.PreloadMeasuredStates(str(earlier_log)))
            model.update_from_file(str(earlier_log))
        policy = ansor.SketchPolicy(
            task,
            model,
            seed=_search_seed(config, earlier),
            verbose=0,
            init_search_callbacks=callbacks or None,
        )
    measurer = ansor.measure.ProgramMeasurer(
        _builder(ansor, config),
        _runner(ansor, config),
        [ansor.RecordToFile(str(log))],
        verbose=0,
    )

    def next_round(size: int) -> _Found:
        clock.calls.clear()
        started = time.perf_counter()
        inputs, results = _one_round(policy, size, measurer, interrupt, log)
        if len(inputs) == 0:
            return _Found((), (0.0, 0.0, 0.0))
        return _Found(results, _phases(started, clock.calls, time.perf_counter()))

    return next_round


def _planner(
    tvm: Any,
    task: Any,
    config: TuningConfig,
    log: Path,
    model: Any,
    clock: Clock,
    earlier: list[Record],
    interrupt: Interrupt,
) -> Callable[[int], _Found]:
    """Rounds of the planner."""
    from cwm_jax.tvm_bridge.planned_search import PlannedSearch

    ansor = tvm.auto_scheduler
    builder, runner = _builder(ansor, config), _runner(ansor, config)

    def measure(inputs: Sequence[Any]) -> Sequence[Any]:
        return runner.run(inputs, builder.build(inputs, verbose=0), verbose=0)

    search = PlannedSearch(tvm, task, model, measure, _search_seed(config, earlier))
    with _log_of(earlier) as earlier_log:
        if earlier_log is not None:
            model.update_from_file(str(earlier_log))
            load = ansor.measure_record.load_record_from_string
            inputs = [
                ansor.MeasureInput(task, load(format_line(record))[0].state) for record in earlier
            ]
            search.remember(inputs, [record.latency for record in earlier])

    def next_round(size: int) -> _Found:
        started = time.perf_counter()
        found = search.round(size)
        seconds = time.perf_counter() - started
        if interrupt.requested:
            raise KeyboardInterrupt
        dump = ansor.measure_record.dump_record_to_string
        with log.open("a") as file:
            for measured, result in zip(found.inputs, found.results, strict=True):
                file.write(str(dump(measured, result)).strip() + "\n")
        rest = seconds - found.model_seconds - found.measure_seconds
        return _Found(
            found.results,
            (rest, found.model_seconds, found.measure_seconds),
            (found.imagined, found.proposed, found.rejected),
        )

    return next_round


def _search_seed(config: TuningConfig, earlier: list[Record]) -> int:
    """Another seed than the first run's: the same samples would be drawn and skipped."""
    return config.seed + 1 + 1000 * len(earlier)


def _builder(ansor: Any, config: TuningConfig) -> Any:
    return ansor.LocalBuilder(timeout=config.build_timeout)


def _runner(ansor: Any, config: TuningConfig) -> Any:
    return ansor.LocalRunner(
        timeout=config.run_timeout,
        repeat=1,
        min_repeat_ms=config.min_repeat_ms,
        enable_cpu_cache_flush=False,
    )


def _one_round(
    policy: Any, size: int, measurer: Any, interrupt: Interrupt, log: Path
) -> tuple[Any, Any]:
    """Searches and measures; an interrupted round leaves no trace in the log.

    Ctrl-C on a terminal also kills the programs being built and run, which would go into the
    log as failures of theirs.
    """
    before = log.stat().st_size if log.exists() else 0
    try:
        found = policy.continue_search_one_round(size, measurer)
        if not interrupt.requested:
            return found
    except Exception:  # what TVM makes of SearchInterrupted depends on its version
        if not interrupt.requested:
            raise
    if log.exists():
        with log.open("rb+") as file:
            file.truncate(before)
        if before == 0:
            log.unlink()
    raise KeyboardInterrupt


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


def _latency(result: Any) -> float:
    if int(result.error_no) != 0:
        return math.inf
    costs = [float(cost.value) for cost in result.costs]
    return sum(costs) / len(costs)


def _first_error(results: Any) -> str:
    for result in results:
        if int(result.error_no) != 0:
            lines = str(result.error_msg).strip().splitlines() or ["timed out"]
            return f"error {int(result.error_no)}: {lines[-1]}"
    return ""


def _best(earlier: list[Record], log: Path, task: Any) -> Record | None:
    records = load_records(log, summary=LogSummary()) if log.exists() else earlier
    mine = [record for record in records if record.workload_key == task.workload_key]
    valid = [record for record in mine if record.valid]
    return min(valid, key=lambda record: record.latency, default=None)


def schedule_text(tvm: Any, task: Any, record: Record) -> str:
    """Returns the loop nest that a record's steps lead to, as TVM prints it."""
    ansor = tvm.auto_scheduler
    measured, _ = ansor.measure_record.load_record_from_string(format_line(record))
    return str(task.compute_dag.infer_bound_from_state(measured.state))
