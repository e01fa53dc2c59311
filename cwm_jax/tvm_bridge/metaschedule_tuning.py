"""One MetaSchedule search on this machine: rounds of search and measurement, resumable.

A search lives in a folder: TVM's own JSON database, and the same trials as records of this
package (`records.jsonl` with its programs beside it), which training reads.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from cwm_jax.errors import RecordError
from cwm_jax.files import write_atomically
from cwm_jax.ranking.online import OnlineRanker, Schedule
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import LogSummary, append_records, load_records
from cwm_jax.records.metaschedule_database import RECORDS_FILE, WORKLOADS_FILE
from cwm_jax.records.program import Program, programs_path, write_programs
from cwm_jax.records.record import Record
from cwm_jax.search.confirmation import best_record, confirm
from cwm_jax.tvm_bridge.cost_models import ADAPTATIONS, AdaptationName, Clock
from cwm_jax.tvm_bridge.interrupts import Interrupt, watch_interrupts
from cwm_jax.tvm_bridge.measuring import Device, MeasureConfig
from cwm_jax.tvm_bridge.metaschedule_measuring import MetaScheduleDevice
from cwm_jax.tvm_bridge.metaschedule_records import FAILED_SECONDS, record_of_result
from cwm_jax.tvm_bridge.metaschedule_sources import Evolution, Imagination, Source
from cwm_jax.tvm_bridge.tir_programs import program_of_module

_RECORDS = "records.jsonl"

CostModelName = Literal["world-model", "xgboost", "mlp", "random"]

_OFFERED = 4
"""Candidates that are offered for each one that the world model chooses to measure."""
_POOL = 512
"""Offered candidates that are kept for later rounds: none is offered twice."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Settings of a search.

    Attributes:
        trials: Candidates to measure in all, those of a resumed search included.
        round_size: Candidates a round; the model learns between rounds.
        cost_model: Which model ranks.
        seed: Of the search.
        timeout: Seconds that one candidate may compile, and run.
        min_repeat_ms: One measurement repeats the program for at least so long.
        population: Schedules that a generation of the evolutionary search holds.
        adaptation: How measurements correct the world model.
        search: Where candidates come from: TVM's evolution, or the world model's imagination.
        confirm: Trials of them that measure the best programs again, at the end
            (`cwm_jax.search.confirmation`).
    """

    trials: int
    round_size: int = 16
    cost_model: CostModelName = "world-model"
    seed: int = 0
    timeout: int = 30
    min_repeat_ms: int = 40
    population: int = 512
    adaptation: AdaptationName = "bound"
    search: Literal["planner", "evolutionary"] = "evolutionary"
    confirm: int = 0


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


class SearchFolder:
    """The files of a search.

    Args:
        tvm: A TVM with MetaSchedule.
        folder: Made if it is missing.
    """

    def __init__(self, tvm: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ms = tvm.s_tir.meta_schedule
        self.folder, self.records = folder, folder / _RECORDS
        if self.records.exists():
            _cut_to_common_lines(self.records, folder / RECORDS_FILE)
        self.database = self._ms.database.JSONDatabase(
            str(folder / WORKLOADS_FILE), str(folder / RECORDS_FILE)
        )

    def earlier(self, workload_keys: Sequence[str], target: str) -> list[Record]:
        """Reads the trials of a search that is resumed.

        Raises:
            RecordError: The folder holds another workload's or target's.
        """
        if not self.records.exists():
            return []
        found = load_records(self.records, summary=LogSummary())
        for record in found:
            if record.workload_key not in workload_keys or record.target != target:
                raise RecordError(
                    f"{self.records}: cannot resume, it holds {record.workload_key} on "
                    f"{record.target}, expected {' or '.join(workload_keys)} on {target}"
                )
        return found

    def append(
        self, workload: Any, target: Any, candidates: Sequence[Any], records: Sequence[Record]
    ) -> None:
        """Appends the trials of a round to both files."""
        for candidate, record in zip(candidates, records, strict=True):
            seconds = record.costs if record.valid else (FAILED_SECONDS,)
            self.database.commit_tuning_record(
                self._ms.database.TuningRecord(
                    candidate.sch.trace, workload, list(seconds), target, candidate.args_info
                )
            )
        append_records(self.records, records)


def _cut_to_common_lines(*paths: Path) -> None:
    """Drops what only one of two files has: a kill may come between them, or within a line."""
    lines = [path.read_bytes().splitlines(keepends=True) for path in paths if path.exists()]
    common = min(sum(line.endswith(b"\n") for line in found) for found in lines)
    for path, found in zip(paths, lines, strict=False):
        if len(found) > common:
            write_atomically(path, b"".join(found[:common]))


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
        timed = create_cost_model(tvm, config, scorer, interrupt)
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


class TimedModel(NamedTuple):
    """A cost model of MetaSchedule.

    Attributes:
        model: `CostModel`.
        clock: When its predictions ran.
        predicted: Returns how many candidates it has scored.
        online: The world model; None for any other.
    """

    model: Any
    clock: Clock
    predicted: Callable[[], int]
    online: OnlineRanker | None


class FoundRound(NamedTuple):
    """What a round measured; `seconds` are those of search, model and measuring."""

    records: list[Record]
    first_error: str
    seconds: tuple[float, float, float]
    predicted: int


class ModuleSearch:
    """A search of one module, asked for one round at a time.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        program: The same.
        target: TVM target.
        config: Settings.
        files: Where measurements go.
        earlier: Those of the module that are there already.
        timed: The cost model, which searches may share.
        device: Builds and runs candidates; searches may share it.
        interrupt: Ends the search.
    """

    def __init__(
        self,
        tvm: Any,
        module: Any,
        program: Program,
        target: Any,
        config: SearchConfig,
        files: SearchFolder,
        earlier: Sequence[Record],
        timed: TimedModel,
        device: Device,
        interrupt: Interrupt,
    ) -> None:
        self._tvm = tvm
        self._device, self._program, self._target, self._files = device, program, target, files
        self._interrupt = interrupt
        self._known = {record.steps for record in earlier}
        self._pool: dict[Schedule, Any] = {}
        self._timed = timed
        self._workload = files.database.commit_workload(module)
        offered = config.round_size * (_OFFERED if timed.online else 1)
        seed = config.seed + 1 + 1000 * len(earlier)
        if config.search == "planner":
            if timed.online is None:
                raise ValueError("the planner needs the world model")
            self._source: Source = Imagination(
                tvm, module, program, target, timed.online, timed.clock, offered, seed
            )
        else:
            self._source = Evolution(
                tvm,
                module,
                program,
                target,
                files.database,
                timed.model,
                # TVM counts what is measured, but cuts what it offers by its own round.
                trials=config.trials - len(earlier) + offered - config.round_size,
                count=offered,
                population=config.population,
                seed=seed,
            )
        self._remind()

    def _remind(self) -> None:
        """Lets the model learn from the trials of an earlier run."""
        ms = self._tvm.s_tir.meta_schedule
        database = self._files.database
        known = [r for r in database.get_all_tuning_records() if r.workload.same_as(self._workload)]
        if known:
            candidates = [record.as_measure_candidate() for record in known]
            results = [
                ms.runner.RunnerResult(None, "failed before")
                if max(map(float, record.run_secs)) >= FAILED_SECONDS
                else ms.runner.RunnerResult(record.run_secs, None)
                for record in known
            ]
            self._timed.model.update(self._source.context, candidates, results)

    def next_round(self, most: int) -> FoundRound:
        """Measures at most so many candidates; none if the search has no more.

        Raises:
            KeyboardInterrupt: The user asked to stop; this round is lost.
        """
        clock, source, model = self._timed.clock, self._source, self._timed.model
        clock.calls.clear()
        before = self._timed.predicted() + source.imagined
        started = time.perf_counter()
        try:
            for schedule, candidate in source.offer(self._known).items():
                self._pool.setdefault(schedule, candidate)
        except RuntimeError:  # what TVM makes of an error in the cost model
            self._stop_if_requested()
            raise
        self._stop_if_requested()
        chosen = self._take(most)
        candidates = [candidate for _, candidate in chosen]
        measuring = time.perf_counter()
        results = self._measure(candidates)
        measured = time.perf_counter()
        source.note(candidates, results)
        if candidates:
            model.update(source.context, candidates, results)
        updated = time.perf_counter()
        records = self._keep(chosen, results)
        self._known.update(record.steps for record in records)
        predicting = sum(end - start for start, end in clock.calls)
        return FoundRound(
            records,
            _first_error(results),
            (
                measuring - started - predicting,
                predicting + updated - measured,
                measured - measuring,
            ),
            self._timed.predicted() + source.imagined - before,
        )

    def again(self, records: Sequence[Record]) -> FoundRound:
        """Measures programs of the search again.

        Args:
            records: One of each program.

        Raises:
            KeyboardInterrupt: As for `next_round`.
        """
        started = time.perf_counter()
        folder = self._files.folder
        lines = [line_of(folder, record) for record in records]
        chosen = [
            (record.steps, tuning_record_of(self._tvm, folder, line).as_measure_candidate())
            for record, line in zip(records, lines, strict=True)
        ]
        measuring = time.perf_counter()
        results = self._measure([candidate for _, candidate in chosen])
        measured = time.perf_counter()
        seconds = (measuring - started, 0.0, measured - measuring)
        return FoundRound(self._keep(chosen, results), _first_error(results), seconds, 0)

    def _keep(self, chosen: Sequence[tuple[Schedule, Any]], results: Sequence[Any]) -> list[Record]:
        """Appends measurements to the files; returns them as records."""
        records = [
            record_of_result(self._program, self._target, schedule, result)
            for (schedule, _), result in zip(chosen, results, strict=True)
        ]
        candidates = [candidate for _, candidate in chosen]
        self._files.append(self._workload, self._target, candidates, records)
        return records

    def _take(self, most: int) -> list[tuple[Schedule, Any]]:
        """Takes what is measured next out of the pool."""
        pool = list(self._pool.items())
        online = self._timed.online
        if online is None:
            self._pool.clear()
            return pool[:most]

        def choose() -> list[int]:
            scores = online.pretrained_scores(self._program, list(self._pool))
            return online.choose(self._program, scores, most)

        chosen = self._timed.clock.around(choose)() if pool else []
        taken = [pool[at] for at in chosen]
        for schedule, _ in taken:
            del self._pool[schedule]
        self._pool = dict(list(self._pool.items())[-_POOL:])
        return taken

    def _measure(self, candidates: Sequence[Any]) -> list[Any]:
        built = self._device.build(candidates)
        try:
            results = self._device.run(candidates, built)
        finally:
            for program in built:
                self._device.discard(program)
        self._stop_if_requested()  # the processes that measure were interrupted, too
        return results

    def _stop_if_requested(self) -> None:
        if self._interrupt.requested:
            raise KeyboardInterrupt

    def finish(self) -> None:
        """Tells TVM that the search is over."""
        self._source.close()


def _first_error(results: Sequence[Any]) -> str:
    return next((str(result.error_msg) for result in results if result.error_msg), "")


def search_device(tvm: Any, target: Any, config: SearchConfig) -> Device:
    """Returns what measures in a search."""
    return MetaScheduleDevice(
        tvm,
        target,
        MeasureConfig(
            build_timeout=config.timeout,
            run_timeout=config.timeout,
            repeat=1,
            min_repeat_ms=config.min_repeat_ms,
        ),
    )


def search_records(folder: Path) -> list[Record]:
    """Returns all trials of a search, in the order of its database's lines."""
    return load_records(folder / _RECORDS, summary=LogSummary())


def line_of(folder: Path, record: Record) -> bytes:
    """Returns the first line of a program in a search's database.

    Args:
        folder: Of the search.
        record: Of the program.
    """
    program = record.workload_key, record.steps
    known = [(record.workload_key, record.steps) for record in search_records(folder)]
    return (folder / RECORDS_FILE).read_bytes().splitlines()[known.index(program)]


def tuning_record_of(tvm: Any, folder: Path, line: bytes) -> Any:
    """Returns the `TuningRecord` of a line in a search's database."""
    databases = tvm.s_tir.meta_schedule.database
    at, fields = orjson.loads(line)
    module = orjson.loads((folder / WORKLOADS_FILE).read_bytes().splitlines()[at])
    return databases.TuningRecord.from_json(fields, databases.Workload.from_json(module))


def create_cost_model(
    tvm: Any, config: SearchConfig, scorer: Scorer | None, interrupt: Interrupt
) -> TimedModel:
    """Creates a cost model of MetaSchedule.

    Args:
        tvm: A TVM with MetaSchedule.
        config: Says which one.
        scorer: The checkpoint of the world model; only it needs one.
        interrupt: Ends the search at the next prediction.
    """
    ms = tvm.s_tir.meta_schedule
    clock = Clock()
    online = None
    if config.cost_model == "world-model":
        from cwm_jax.tvm_bridge.metaschedule import WorldModelCostModel

        if scorer is None:
            raise ValueError("the world model needs a scorer")
        inner: Any = WorldModelCostModel(scorer, ADAPTATIONS[config.adaptation])
        online = inner.online
    elif config.cost_model == "xgboost":
        inner = ms.cost_model.XGBModel(num_warmup_samples=config.round_size - 1)
    elif config.cost_model == "mlp":
        from tvm.s_tir.meta_schedule.cost_model.mlp_model import MLPModel

        inner = MLPModel()
    else:
        inner = ms.cost_model.RandomModel(seed=config.seed)
    count = 0

    @tvm.ir.utils.derived_object
    class Timed(ms.cost_model.PyCostModel):
        def load(self, path: str) -> None:
            inner.load(path)

        def save(self, path: str) -> None:
            inner.save(path)

        def update(self, context: Any, candidates: Any, results: Any) -> None:
            inner.update(context, candidates, results)

        def predict(self, context: Any, candidates: Any) -> Any:
            nonlocal count
            count += len(candidates)
            return clock.around(interrupt.guard(inner.predict))(context, candidates)

    return TimedModel(Timed(), clock, lambda: count, online)
