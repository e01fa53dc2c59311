"""One MetaSchedule search on this machine: rounds of search and measurement, resumable."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.program import programs_path, write_programs
from cwm_jax.records.record import Record
from cwm_jax.search.confirmation import best_record, confirm
from cwm_jax.tvm_bridge.interrupts import watch_interrupts
from cwm_jax.tvm_bridge.metaschedule_folder import SearchFolder
from cwm_jax.tvm_bridge.metaschedule_rounds import (
    FoundRound,
    ModuleSearch,
    SearchConfig,
    search_device,
    search_model,
)
from cwm_jax.tvm_bridge.tir_programs import program_of_module


@dataclasses.dataclass(frozen=True)
class SearchRound:
    """What one round did; times are wall-clock seconds.

    Attributes:
        trials: Candidates measured so far.
        latencies: Of this round's candidates in seconds, infinity for failures.
        best_latency: Best so far in seconds.
        search_seconds: Search without the model.
        model_seconds: In the cost model.
        measure_seconds: Building and running.
        predicted: Candidates that the model scored.
        confirming: Whether the best programs were measured again, and none was searched for.
    """

    trials: int
    latencies: tuple[float, ...]
    best_latency: float
    search_seconds: float
    model_seconds: float
    measure_seconds: float
    predicted: int
    confirming: bool = False


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Outcome of a search.

    Attributes:
        workload_key: Structural hash of the module.
        target: TVM target as JSON.
        flop: Floating-point operations of one run, by TVM's count.
        latencies: Of every trial in order, in seconds, infinity for failures; a resumed
            search's come first.
        rounds: The rounds of this run.
        best: The fastest program (`cwm_jax.search.confirmation.best_record`), None if no trial
            succeeded.
        first_error: What TVM said of the first failed trial of this run, or "".
        stopped_early: Whether the search space ran out before the trials did.
    """

    workload_key: str
    target: str
    flop: float
    latencies: tuple[float, ...]
    rounds: tuple[SearchRound, ...]
    best: Record | None
    first_error: str
    stopped_early: bool


def tune_module(
    tvm: Any,
    module: Any,
    target: Any,
    config: SearchConfig,
    folder: Path,
    *,
    scorer: Scorer | None = None,
    report: Callable[[SearchRound], None] = lambda _: None,
) -> SearchResult:
    """Searches for a fast schedule of a module with MetaSchedule's evolutionary search.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        target: TVM target with `num-cores`.
        config: Settings.
        folder: Where the search lives; goes on with the trials that it holds.
        scorer: Checkpoint of the world model, if that is the cost model.
        report: Called after every round.

    Raises:
        RecordError: The folder holds another search.
        ProgramError: MetaSchedule cannot tune the module.
    """
    from cwm_jax.tvm_bridge.metaschedule import workload_key

    program = program_of_module(tvm, module, workload_key(module))
    files = SearchFolder(tvm, folder)
    records = files.earlier([program.workload_key], str(target))
    write_programs([program], programs_path(files.records))
    latencies = [record.latency for record in records]
    rounds: list[SearchRound] = []
    error, stopped_early = "", False

    def note(found: FoundRound, *, confirming: bool) -> None:
        nonlocal error
        error = error or found.first_error
        records.extend(found.records)
        new = tuple(record.latency for record in found.records)
        latencies.extend(new)
        best = min(latencies)
        rounds.append(
            SearchRound(
                len(latencies), new, best, *found.seconds, found.predicted, confirming=confirming
            )
        )
        report(rounds[-1])

    with watch_interrupts() as interrupt:
        timed = search_model(tvm, config, scorer, interrupt)
        device = search_device(tvm, target, config)
        search = ModuleSearch(
            tvm, module, program, target, config, files, records, timed, device, interrupt
        )
        while (left := config.trials - config.confirm - len(latencies)) > 0:
            found = search.next_round(min(left, config.round_size))
            if not found.records:
                stopped_early = True
                break
            note(found, confirming=False)
        left = min(config.confirm, config.trials - len(latencies))
        for found in confirm(lambda: records, search.again, left):
            note(found, confirming=True)
    search.finish()
    return SearchResult(
        workload_key=program.workload_key,
        target=str(target),
        flop=program.flop,
        latencies=tuple(latencies),
        rounds=tuple(rounds),
        best=best_record(records),
        first_error=error.strip().splitlines()[-1] if error.strip() else "",
        stopped_early=stopped_early,
    )
