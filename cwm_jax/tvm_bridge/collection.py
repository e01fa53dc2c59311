"""Collecting a corpus: rounds of candidates over many tasks, on one machine, resumable."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from cwm_jax.errors import CorpusError
from cwm_jax.files import write_atomically
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import LogSummary, format_line, iterate_records, load_records
from cwm_jax.records.gzip_log import append_member, drop_unfinished_member
from cwm_jax.records.program import write_programs
from cwm_jax.records.record import Record
from cwm_jax.tvm_bridge.candidates import draw_candidates, mix_of_round
from cwm_jax.tvm_bridge.corpus_files import Corpus
from cwm_jax.tvm_bridge.corpus_tasks import CorpusTask, read_tasks, search_task, write_tasks
from cwm_jax.tvm_bridge.interrupts import Interrupt, watch_interrupts
from cwm_jax.tvm_bridge.measuring import QuietMeasurer
from cwm_jax.tvm_bridge.programs import program_of_task
from cwm_jax.tvm_bridge.reference import ReferenceRun
from cwm_jax.tvm_bridge.results import first_error


@dataclasses.dataclass(frozen=True)
class CollectionConfig:
    """How much to collect.

    Attributes:
        records_per_workload: Candidates to measure of each workload, earlier ones included.
        round_size: Candidates of one workload measured together.
        seconds: Stop after the round in which so much time has passed; None for no limit.
        seed: Of the candidates.
    """

    records_per_workload: int = 32
    round_size: int = 32
    seconds: float | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class CollectedRound:
    """What one round did.

    Attributes:
        workload_key: Of the task.
        measured: Records of this round.
        valid: Those that succeeded.
        attempts: How often the batch ran until the machine was quiet.
        total: Records of the corpus so far.
        first_error: What TVM said of the round's first failure, or "".
    """

    workload_key: str
    measured: int
    valid: int
    attempts: int
    total: int
    first_error: str


def open_corpus(
    tvm: Any,
    folder: Path,
    machine: dict[str, Any],
    plan: Callable[[], list[CorpusTask]],
) -> list[CorpusTask]:
    """Creates a corpus, or checks and mends one that exists.

    Args:
        tvm: A TVM with Ansor.
        folder: Of the corpus.
        machine: What this machine is; a corpus holds records of one only.
        plan: Lists the tasks of a new corpus.

    Raises:
        CorpusError: The corpus belongs to other hardware, or is damaged.
    """
    corpus = Corpus(folder)
    if corpus.machine.exists():
        check_machine(corpus, machine)
    else:
        if corpus.records.exists():
            raise CorpusError(f"{corpus.folder}: has records but no machine.json")
        text = orjson.dumps(machine, option=orjson.OPT_INDENT_2)
        write_atomically(corpus.machine, text + b"\n")
    if not corpus.tasks.exists():
        write_tasks(corpus.tasks, plan())
    tasks = read_tasks(corpus.tasks)
    if not corpus.programs.exists():
        write_programs(
            (program_of_task(tvm, search_task(tvm, task)) for task in tasks), corpus.programs
        )
    if corpus.records.exists():
        drop_unfinished_member(corpus.records)
    return tasks


def check_machine(corpus: Corpus, machine: dict[str, Any]) -> None:
    """Refuses to mix hardware in one corpus.

    Raises:
        CorpusError: The corpus was measured on another kind of machine.
    """
    try:
        known = orjson.loads(corpus.machine.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise CorpusError(f"{corpus.machine}: cannot be read ({error})") from error
    for field, value in machine.items():
        if known.get(field) != value:
            raise CorpusError(
                f"{corpus.folder}: was measured with {field} {known.get(field)!r}, but this "
                f"machine has {value!r}; collect into another folder"
            )


def read_reference(path: Path) -> list[ReferenceRun]:
    """Reads the runs of the reference program; a last line cut by a kill is dropped."""
    runs: list[ReferenceRun] = []
    if not path.exists():
        return runs
    for line in path.read_bytes().splitlines():
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        runs.append(ReferenceRun(**(fields | {"latencies": tuple(fields["latencies"])})))
    return runs


def collect(
    tvm: Any,
    folder: Path,
    tasks: list[CorpusTask],
    measurer: QuietMeasurer,
    config: CollectionConfig,
    *,
    scorer: Scorer | None,
    report: Callable[[CollectedRound], None] = lambda _: None,
) -> None:
    """Measures until every task has its records; every finished round is on disk.

    Tasks take turns, so that a corpus which is stopped early covers all of them.

    Raises:
        CorpusError: The machine did not become quiet.
        KeyboardInterrupt: On Ctrl-C; the round under way is dropped.
    """
    with watch_interrupts() as interrupt:
        _collect(tvm, Corpus(folder), tasks, measurer, config, scorer, report, interrupt)


def _collect(
    tvm: Any,
    corpus: Corpus,
    tasks: list[CorpusTask],
    measurer: QuietMeasurer,
    config: CollectionConfig,
    scorer: Scorer | None,
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
            done = _round(tvm, corpus, task, measurer, size, seed, counts[key], scorer, interrupt)
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
    tvm: Any,
    corpus: Corpus,
    task: CorpusTask,
    measurer: QuietMeasurer,
    size: int,
    seed: int,
    earlier: int,
    scorer: Scorer | None,
    interrupt: Interrupt,
) -> CollectedRound:
    ansor = tvm.auto_scheduler
    searched = search_task(tvm, task)
    states = draw_candidates(
        tvm,
        searched,
        mix_of_round(earlier, size, guided=scorer is not None),
        seed,
        scorer=scorer,
        measured=_measured(tvm, corpus, searched, earlier),
    )
    inputs = [ansor.MeasureInput(searched, state) for state in states]
    before = len(measurer.history)
    results: list[Any] = []
    try:
        if inputs:
            results = measurer.measure(inputs)
    finally:
        _append_reference(corpus.reference, measurer.history[before:])
    if interrupt.requested:
        # Ctrl-C on a terminal also kills the programs under way, which look like failures.
        raise KeyboardInterrupt
    dump = ansor.measure_record.dump_record_to_string
    if results:
        append_member(
            corpus.records,
            (str(dump(item, result)).strip() for item, result in zip(inputs, results, strict=True)),
        )
    failed = [result for result in results if int(result.error_no) != 0]
    return CollectedRound(
        workload_key=task.workload_key,
        measured=len(results),
        valid=len(results) - len(failed),
        attempts=len(measurer.history) - before,
        total=0,
        first_error=first_error(failed),
    )


def _measured(tvm: Any, corpus: Corpus, task: Any, earlier: int) -> tuple[list[Any], list[Any]]:
    """What the corpus holds of a task, as TVM's objects."""
    if earlier == 0:
        return [], []
    ansor = tvm.auto_scheduler
    inputs, results = [], []
    for record in iterate_records(corpus.records, LogSummary()):
        if record.workload_key == str(task.workload_key):
            loaded, result = ansor.measure_record.load_record_from_string(format_line(record))
            state = task.compute_dag.infer_bound_from_state(loaded.state)
            inputs.append(ansor.MeasureInput(task, state))
            results.append(result)
    return inputs, results


def _append_reference(path: Path, runs: Iterable[ReferenceRun]) -> None:
    with path.open("ab") as file:
        for run in runs:
            file.write(orjson.dumps(dataclasses.asdict(run)) + b"\n")


def remeasure_some(
    tvm: Any,
    folder: Path,
    tasks: list[CorpusTask],
    measurer: QuietMeasurer,
    count: int,
    seed: int,
    report: Callable[[int], None] = lambda _: None,
) -> None:
    """Measures a random sample of the valid records again, to know the noise.

    Args:
        tvm: A TVM with Ansor.
        folder: Of the corpus.
        tasks: Of the corpus.
        measurer: As for `collect`.
        count: Size of the sample.
        seed: Of the sample.
        report: Called with the number of records measured so far.
    """
    corpus = Corpus(folder)
    valid = [r for r in load_records(corpus.records, summary=LogSummary()) if r.valid]
    rng = np.random.default_rng(seed)
    sample = [valid[at] for at in rng.permutation(len(valid))[:count]]
    by_key = {task.workload_key: task for task in tasks}
    ansor = tvm.auto_scheduler
    for start in range(0, len(sample), measurer.config.reference_every):
        part: list[Record] = sample[start : start + measurer.config.reference_every]
        inputs = []
        for record in part:
            task = search_task(tvm, by_key[record.workload_key])
            loaded, _ = ansor.measure_record.load_record_from_string(format_line(record))
            inputs.append(ansor.MeasureInput(task, loaded.state))
        before = len(measurer.history)
        try:
            results = measurer.measure(inputs)
        finally:
            _append_reference(corpus.reference, measurer.history[before:])
        dump = ansor.measure_record.dump_record_to_string
        lines = (str(dump(item, r)).strip() for item, r in zip(inputs, results, strict=True))
        append_member(corpus.remeasured, lines)
        report(start + len(part))
