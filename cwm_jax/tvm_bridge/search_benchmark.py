"""Search curves of several cost models, compared fairly on one machine.

Every search runs in a fresh process and models take turns, so that a drift of the machine
touches all of them; the winners are then built again and measured in turn, several times.
"""

import dataclasses
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.errors import CwmError
from cwm_jax.records.ansor_log import LogSummary, format_line, load_records
from cwm_jax.records.record import Record


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """One search of the benchmark.

    Attributes:
        workload: As for `cwm tune`.
        cost_model: As for `cwm tune`.
        seed: Of the search.
    """

    workload: str
    cost_model: str
    seed: int

    @property
    def name(self) -> str:
        """File name stem of the run's log and results."""
        operator, _, shape = self.workload.partition(":")
        return f"{operator}-{shape.replace(',', 'x')}-{self.cost_model}-{self.seed}"


def plan_runs(
    workloads: Sequence[str], cost_models: Sequence[str], seeds: Sequence[int]
) -> list[SearchRun]:
    """Orders the searches so that the models of one workload and seed follow each other.

    The model that goes first alternates.
    """
    runs: list[SearchRun] = []
    for seed in seeds:
        for at, workload in enumerate(workloads):
            turn = (at + seed) % len(cost_models)
            models = [*cost_models[turn:], *cost_models[:turn]]
            runs += [SearchRun(workload, model, seed) for model in models]
    return runs


def run_search(run: SearchRun, trials: int, checkpoint: str, folder: Path) -> dict[str, Any]:
    """Runs one search in a process of its own, or returns what an earlier call finished.

    Raises:
        CwmError: The search failed.
    """
    result = folder / f"{run.name}.json"
    if result.exists():
        return orjson.loads(result.read_bytes())
    log = folder / f"{run.name}.jsonl"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "cwm_jax.cli.main", "tune", "--workload", run.workload]
    command += ["--trials", str(trials), "--cost-model", run.cost_model, "--seed", str(run.seed)]
    command += ["--checkpoint", checkpoint, "--log", str(log), "--json", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CwmError(f"{run.name}: {done.stderr.strip() or done.stdout.strip()}")
    return orjson.loads(result.read_bytes())


def winner_after(log: Path, trials: int) -> Record:
    """Returns the fastest of the first `trials` records of a log."""
    records = load_records(log, summary=LogSummary())[:trials]
    return min(records, key=lambda record: record.latency)


def remeasure(
    tvm: Any,
    task_of: Callable[[Record], Any],
    winners: Sequence[Record],
    rounds: int,
    report: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Builds and measures programs in turn, `rounds` times.

    Args:
        tvm: A TVM with Ansor.
        task_of: Gives the search task of a record.
        winners: What to measure.
        rounds: How often each is built and measured.
        report: Called after every round with its number.

    Returns:
        The median latency of each in seconds; infinity where none succeeded.
    """
    ansor = tvm.auto_scheduler
    builder = ansor.LocalBuilder(timeout=60)
    runner = ansor.LocalRunner(timeout=30, repeat=3, min_repeat_ms=100)
    found: list[list[float]] = [[] for _ in winners]
    for number in range(rounds):
        for at, record in enumerate(winners):
            loaded, _ = ansor.measure_record.load_record_from_string(format_line(record))
            inputs = [ansor.MeasureInput(task_of(record), loaded.state)]
            built = builder.build(inputs, verbose=0)
            result = runner.run(inputs, built, verbose=0)[0]
            if int(result.error_no) == 0:
                found[at].append(statistics.median(float(cost.value) for cost in result.costs))
        report(number + 1)
    return [statistics.median(costs) if costs else math.inf for costs in found]
