"""Tuning all tasks of a network together: one model, one log, Ansor's gradient scheduler."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cwm_jax.errors import WorkloadError
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.record import Record
from cwm_jax.search.task_scheduler import TaskProgress
from cwm_jax.tuning.ansor.rounds import NextRound, start_confirming, start_search
from cwm_jax.tuning.ansor.session import search_session
from cwm_jax.tuning.ansor.settings import TuningConfig
from cwm_jax.tuning.ansor.tasks import why_not_tunable
from cwm_jax.tuning.ansor.tuning import measured_records
from cwm_jax.tuning.loop import TaskRound
from cwm_jax.tuning.network import (
    Confirming,
    NetworkRound,
    NetworkTuningResult,
    earlier_rounds,
    round_size,
    tune_in_turns,
)

_TAG = "auto_scheduler_task_scheduler_tag"
_LOG_BASE = 1.618


def tunable_tasks(
    tvm: Any, tasks: Sequence[tuple[Any, int]], network: str
) -> list[tuple[Any, int]]:
    """Returns the tasks that Ansor can tune, and warns of each other one.

    Args:
        tvm: A TVM with Ansor.
        tasks: `auto_scheduler.SearchTask`s and how often each occurs in the network.
        network: Its name.

    Raises:
        WorkloadError: There is none.
    """
    found = []
    for task, weight in tasks:
        reason = why_not_tunable(tvm, task)
        if reason is None:
            found.append((task, weight))
        else:
            warnings.warn(f"{network}, {task.desc}: {reason}; it is left as it is", stacklevel=2)
    if not found:
        raise WorkloadError(f"{network}: holds no task that Ansor can tune")
    return found


def tune_network(
    tvm: Any,
    tasks: Sequence[tuple[Any, int]],
    config: TuningConfig,
    log: Path,
    *,
    scorer: Scorer | None = None,
    earlier: Sequence[Record] = (),
    report: Callable[[NetworkRound], None] = lambda _: None,
) -> NetworkTuningResult:
    """Tunes the tasks of a network; every measured round is appended to the log.

    Args:
        tvm: A TVM with Ansor.
        tasks: `auto_scheduler.SearchTask`s and how often each occurs in the network.
        config: Settings; `trials` counts all tasks together, and a round is cut so that every
            task gets one.
        log: Ansor log to append to.
        scorer: Checkpoint of the world model, if that is the cost model.
        earlier: Records of these tasks that are measured already.
        report: Called after every round.

    Raises:
        KeyboardInterrupt: On Ctrl-C; the log holds all finished rounds.
        RecordError: As `tune_task`; so the next one.
        TargetError: Likewise.
    """
    size = round_size(config.round_size, config.trials - config.confirm, len(tasks))
    records = [[r for r in earlier if r.workload_key == task.workload_key] for task, _ in tasks]
    progress = [
        _progress(task, weight, found, size)
        for (task, weight), found in zip(tasks, records, strict=True)
    ]
    searches: dict[int, NextRound] = {}
    target, learn_every = tasks[0][0].target, size * len(tasks)
    with search_session(tvm, target, config, log, scorer, learn_every) as session:

        def run_round(at: int, count: int) -> TaskRound:
            if at not in searches:
                searches[at] = start_search(session, tasks[at][0], records[at])
            return searches[at](count).told()

        def again(at: int, graphs: Sequence[Record]) -> TaskRound:
            return start_confirming(session, tasks[at][0])(graphs).told()

        def measured(at: int) -> list[Record]:
            task = tasks[at][0]
            return measured_records(records[at], log, task.workload_key, str(task.target))

        trials = [len(found) for found in records]
        confirming = Confirming(config.confirm // len(tasks), measured, again)
        return tune_in_turns(progress, trials, config.trials, size, run_round, confirming, report)


def _progress(task: Any, weight: int, earlier: Sequence[Record], size: int) -> TaskProgress:
    flop = float(task.compute_dag.flop_ct)
    history = earlier_rounds([record.latency for record in earlier], size)
    return TaskProgress(weight=weight, flop=flop, kind=_kind(task, flop), history=history)


def _kind(task: Any, flop: float) -> str:
    """Tags of a task's operators and the magnitude of its work (`derive_similarity_tag`)."""
    tags = [str(tag) for op in task.compute_dag.ops if (tag := op.attrs.get(_TAG, None))]
    return f"{'_'.join(tags)}_{int(math.log(flop + 1, _LOG_BASE))}" if tags else ""
