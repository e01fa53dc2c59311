"""One Ansor search on this machine: rounds of search and measurement, logged and resumable."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cwm_jax.errors import RecordError
from cwm_jax.files import append_lines
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.lines import LogSummary, is_packed
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Record
from cwm_jax.tuning.ansor.rounds import start_confirming, start_search
from cwm_jax.tuning.ansor.session import search_session
from cwm_jax.tuning.ansor.settings import TuningConfig
from cwm_jax.tuning.loop import Round, Searched, SearchResult, search_in_rounds


def resumable_records(log: Path, workload_keys: Collection[str], target: str) -> list[Record]:
    """Reads the records of a log that belong to a search, and ends an unfinished last line.

    Lines of other workloads and targets stay, and count nothing.

    Args:
        log: Ansor log.
        workload_keys: Of the tasks that are searched.
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


def tune_task(
    tvm: Any,
    task: Any,
    config: TuningConfig,
    log: Path,
    *,
    scorer: Scorer | None = None,
    earlier: list[Record] | None = None,
    report: Callable[[Round], None] = lambda _: None,
) -> SearchResult:
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
        RecordError: The log was measured otherwise than the settings say.
        TargetError: The settings ask for references on another device than this CPU.
    """
    earlier = earlier or []
    learn_every = config.round_size
    with search_session(tvm, task.target, config, log, scorer, learn_every) as session:
        next_round = start_search(session, task, earlier)
        again = start_confirming(session, task)
        searched = Searched(
            task.workload_key,
            str(task.target),
            float(task.compute_dag.flop_ct),
            lambda count: next_round(count).told(),
            lambda records: again(records).told(),
            partial(measured_records, earlier, log, task.workload_key, str(task.target)),
        )
        latencies = [record.latency for record in earlier]
        return search_in_rounds(searched, config, latencies, report)


def measured_records(
    earlier: Sequence[Record], log: Path, workload_key: str, target: str
) -> list[Record]:
    """Returns the records of a workload on a target in a log.

    Args:
        earlier: What the log held before; looked at if there is no log.
        log: Ansor log.
        workload_key: Of the workload.
        target: TVM target string.
    """
    records = load_records(log, summary=LogSummary()) if log.exists() else earlier
    return [r for r in records if r.workload_key == workload_key and r.target == target]


def schedule_text(tvm: Any, task: Any, record: Record) -> str:
    """Returns the loop nest that a record's steps lead to, as TVM prints it."""
    ansor = tvm.auto_scheduler
    measured, _ = ansor.measure_record.load_record_from_string(format_line(record))
    return str(task.compute_dag.infer_bound_from_state(measured.state))
