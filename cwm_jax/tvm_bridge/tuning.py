"""One Ansor search on this machine: rounds of search and measurement, logged and resumable."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cwm_jax.errors import RecordError
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import LogSummary, format_line, load_records
from cwm_jax.records.record import Record
from cwm_jax.search.confirmation import best_record, confirm
from cwm_jax.tvm_bridge.cost_models import create_cost_model
from cwm_jax.tvm_bridge.interrupts import watch_interrupts
from cwm_jax.tvm_bridge.results import first_error, latency_of
from cwm_jax.tvm_bridge.rounds import (
    Found,
    TuningConfig,
    guard_model,
    start_confirming,
    start_search,
)


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
        confirming: Whether the best programs were measured again, and none was searched for.
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
    confirming: bool = False


@dataclasses.dataclass(frozen=True)
class TuningResult:
    """Outcome of a search.

    Attributes:
        workload_key: Ansor's workload key.
        target: TVM target string.
        latencies: Of every trial in order, in seconds, infinity for failures; a resumed log's
            come first.
        rounds: The rounds of this run.
        best: The fastest program (`cwm_jax.search.confirmation.best_record`), None if no trial
            succeeded.
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


def resumable_records(log: Path, workload_keys: Collection[str], target: str) -> list[Record]:
    """Reads the records of a log that belong to a search, and mends an unfinished last line.

    Args:
        log: Ansor log.
        workload_keys: Of the tasks that are searched.
        target: TVM target string.

    Raises:
        RecordError: The log cannot be read, or holds only other workloads or targets.
    """
    summary = LogSummary()
    found = load_records(log, summary=summary)
    mine = [r for r in found if r.workload_key in workload_keys and r.target == target]
    if not mine:
        other = found[0]
        raise RecordError(
            f"{log}: cannot resume, it holds {other.workload_key} on {other.target!r}, "
            f"expected {' or '.join(list(workload_keys)[:3])} on {target!r}"
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
        tvm,
        config.cost_model,
        scorer=scorer,
        round_size=config.round_size,
        seed=config.seed,
        adaptation=config.adaptation,
        pretrain=config.pretrain,
    )
    latencies = [record.latency for record in earlier]
    rounds: list[Round] = []
    error, stopped_early = "", False
    measured = partial(measured_records, earlier, log, task.workload_key)

    def note(found: Found, *, confirming: bool) -> None:
        nonlocal error
        error = error or first_error(found.results)
        new = tuple(latency_of(result) for result in found.results)
        latencies.extend(new)
        best = min(latencies)
        rounds.append(
            Round(len(latencies), new, best, *found.seconds, *found.counts, confirming=confirming)
        )
        report(rounds[-1])

    with watch_interrupts() as interrupt:
        guard_model(model, config, interrupt)
        next_round = start_search(tvm, task, config, log, model, clock, earlier, interrupt)
        while (left := config.trials - config.confirm - len(latencies)) > 0:
            found = next_round(min(config.round_size, left))
            if len(found.results) == 0:
                stopped_early = True
                break
            note(found, confirming=False)
        again = start_confirming(tvm, task, config, log, interrupt)
        left = min(config.confirm, config.trials - len(latencies))
        for found in confirm(measured, again, left):
            note(found, confirming=True)
    return TuningResult(
        workload_key=task.workload_key,
        target=str(task.target),
        latencies=tuple(latencies),
        rounds=tuple(rounds),
        best=best_record(measured()),
        first_error=error,
        stopped_early=stopped_early,
    )


def measured_records(earlier: Sequence[Record], log: Path, workload_key: str) -> list[Record]:
    """Returns the records of a workload in a log.

    Args:
        earlier: What the log held before; looked at if there is no log.
        log: Ansor log.
        workload_key: Of the workload.
    """
    records = load_records(log, summary=LogSummary()) if log.exists() else earlier
    return [record for record in records if record.workload_key == workload_key]


def schedule_text(tvm: Any, task: Any, record: Record) -> str:
    """Returns the loop nest that a record's steps lead to, as TVM prints it."""
    ansor = tvm.auto_scheduler
    measured, _ = ansor.measure_record.load_record_from_string(format_line(record))
    return str(task.compute_dag.infer_bound_from_state(measured.state))
