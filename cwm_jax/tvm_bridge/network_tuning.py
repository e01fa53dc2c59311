"""Tuning all tasks of a network together: one model, one log, Ansor's gradient scheduler."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.record import Record
from cwm_jax.search.task_gradient import (
    GradientConfig,
    TaskProgress,
    network_latency,
    next_task,
)
from cwm_jax.tvm_bridge.cost_models import create_cost_model
from cwm_jax.tvm_bridge.interrupts import watch_interrupts
from cwm_jax.tvm_bridge.results import first_error, latency_of
from cwm_jax.tvm_bridge.rounds import NextRound, TuningConfig, guard_model, start_search

_TAG = "auto_scheduler_task_scheduler_tag"
_LOG_BASE = 1.618


@dataclasses.dataclass(frozen=True)
class NetworkRound:
    """What one round did; times are wall-clock seconds.

    Attributes:
        task: Position of the task that was tuned.
        trials: Candidates measured so far, of all tasks.
        network_latency: Estimated latency of the network in seconds; infinity while a task has
            no valid program.
        search_seconds: Search without the model.
        model_seconds: In the cost model.
        measure_seconds: Building and running.
    """

    task: int
    trials: int
    network_latency: float
    search_seconds: float
    model_seconds: float
    measure_seconds: float


@dataclasses.dataclass(frozen=True)
class NetworkTuningResult:
    """Outcome of tuning a network.

    Attributes:
        trials: Candidates measured of each task, those of a resumed log included.
        best_latencies: Best latency of each task in seconds; infinity where none succeeded.
        network_latency: Their weighted sum in seconds.
        rounds: The rounds of this run.
        first_error: What TVM said of the first failed trial of this run, or "".
    """

    trials: tuple[int, ...]
    best_latencies: tuple[float, ...]
    network_latency: float
    rounds: tuple[NetworkRound, ...]
    first_error: str


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
    """
    size = max(1, min(config.round_size, config.trials // len(tasks)))
    model, clock = create_cost_model(
        tvm,
        config.cost_model,
        scorer=scorer,
        round_size=size * len(tasks),
        seed=config.seed,
        adaptation=config.adaptation,
        pretrain=config.pretrain,
    )
    records = [[r for r in earlier if r.workload_key == task.workload_key] for task, _ in tasks]
    trials = [len(found) for found in records]
    progress = [
        _progress(task, weight, found, size)
        for (task, weight), found in zip(tasks, records, strict=True)
    ]
    searches: dict[int, NextRound] = {}
    rounds: list[NetworkRound] = []
    error = ""
    with watch_interrupts() as interrupt:
        guard_model(model, config, interrupt)
        while sum(trials) < config.trials:
            at = next_task(progress, GradientConfig())
            if at is None:
                break
            if at not in searches:
                searches[at] = start_search(
                    tvm, tasks[at][0], config, log, model, clock, records[at], interrupt
                )
            found = searches[at](min(size, config.trials - sum(trials)))
            latencies = [latency_of(result) for result in found.results]
            error = error or first_error(found.results)
            trials[at] += len(latencies)
            best = min([progress[at].best, *latencies])
            progress[at] = dataclasses.replace(
                progress[at], history=(*progress[at].history, best), exhausted=not latencies
            )
            rounds.append(NetworkRound(at, sum(trials), network_latency(progress), *found.seconds))
            report(rounds[-1])
    return NetworkTuningResult(
        trials=tuple(trials),
        best_latencies=tuple(task.best for task in progress),
        network_latency=network_latency(progress),
        rounds=tuple(rounds),
        first_error=error,
    )


def _progress(task: Any, weight: int, earlier: Sequence[Record], size: int) -> TaskProgress:
    """What a task's earlier records amount to, in rounds of `size`."""
    latencies = [record.latency for record in earlier]
    ends = range(size, len(latencies) + size, size) if latencies else ()
    history = tuple(min(latencies[:end]) for end in ends)
    flop = float(task.compute_dag.flop_ct)
    return TaskProgress(weight=weight, flop=flop, kind=_kind(task, flop), history=history)


def _kind(task: Any, flop: float) -> str:
    """Tags of a task's operators and the magnitude of its work (`derive_similarity_tag`)."""
    tags = [str(tag) for op in task.compute_dag.ops if (tag := op.attrs.get(_TAG, None))]
    return f"{'_'.join(tags)}_{int(math.log(flop + 1, _LOG_BASE))}" if tags else ""
