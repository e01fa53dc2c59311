"""Search curves of several cost models, compared fairly on one machine.

Every search runs in a fresh process and models take turns, so that a drift of the machine
touches all of them; the winners are then built again and measured in turn, several times.
"""

import dataclasses
import hashlib
import math
import re
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
from cwm_jax.tvm_bridge.results import latency_of

VARIANTS: dict[str, tuple[str, ...]] = {
    "world-model": ("--cost-model", "world-model"),
    "world-model-planner": ("--cost-model", "world-model", "--search", "planner"),
    "world-model-mean": ("--cost-model", "world-model", "--adaptation", "mean"),
    "world-model-pretrained-only": ("--cost-model", "world-model", "--adaptation", "none"),
    "xgboost": ("--cost-model", "xgboost"),
    "xgboost-pretrained": ("--cost-model", "xgboost", "--pretrain"),
    "random": ("--cost-model", "random"),
}
"""Ways to search, as options of `cwm tune`; a corpus follows `--pretrain`."""


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """One search of the benchmark.

    Attributes:
        workload: As for `cwm tune`.
        variant: In `VARIANTS`.
        seed: Of the search.
        trials: To measure.
    """

    workload: str
    variant: str
    seed: int
    trials: int

    @property
    def name(self) -> str:
        """File name stem of the run's log and results."""
        what = re.sub(r"[:#]", "-", self.workload).replace(",", "x")
        return f"{what}-{self.variant}-{self.seed}-{self.trials}"


def plan_runs(
    workloads: Sequence[str], variants: Sequence[str], seeds: Sequence[int], trials: int
) -> list[SearchRun]:
    """Orders the searches so that the variants of one workload and seed follow each other.

    The variant that goes first alternates.
    """
    runs: list[SearchRun] = []
    for seed in seeds:
        for at, workload in enumerate(workloads):
            turn = (at + seed) % len(variants)
            ordered = [*variants[turn:], *variants[:turn]]
            runs += [SearchRun(workload, variant, seed, trials) for variant in ordered]
    return runs


def run_search(run: SearchRun, checkpoint: str, corpus: Path, folder: Path) -> dict[str, Any]:
    """Runs one search in a process of its own, or returns what an earlier call finished.

    A search that was stopped goes on from its log.

    Args:
        run: The search.
        checkpoint: Of the world model.
        corpus: What a pretrained rival learns from.
        folder: Where logs and results are kept.

    Raises:
        CwmError: The search failed.
    """
    result = folder / f"{run.name}.json"
    if result.exists():
        return orjson.loads(result.read_bytes())
    log = folder / f"{run.name}.jsonl"
    command = [sys.executable, "-m", "cwm_jax.cli.main", "tune", "--workload", run.workload]
    variant = VARIANTS[run.variant]
    command += [*variant, *([str(corpus)] if variant[-1] == "--pretrain" else [])]
    command += ["--trials", str(run.trials), "--seed", str(run.seed), "--json", str(result)]
    command += ["--checkpoint", checkpoint, "--resume" if log.exists() else "--log", str(log)]
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
    file: Path,
    report: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Builds and measures programs in turn, `rounds` times, each time in a fresh process.

    Args:
        tvm: A TVM with Ansor.
        task_of: Gives the search task of a record.
        winners: What to measure.
        rounds: How often each is built and measured.
        file: JSON lines of what is measured; a call with the same winners goes on with it.
        report: Called after every measurement with how many there are.

    Returns:
        The median latency of each in seconds; infinity where none succeeded.
    """
    ansor = tvm.auto_scheduler
    builder = ansor.LocalBuilder(timeout=60)
    runner = ansor.LocalRunner(timeout=30, repeat=3, min_repeat_ms=100)
    lines = [format_line(winner) for winner in winners]
    names = [hashlib.sha256(line.encode()).hexdigest()[:16] for line in lines]
    done: dict[tuple[str, int], float] = {}
    if file.exists():
        for line in file.read_bytes().splitlines():
            known = orjson.loads(line)
            latency = known["latency"]
            done[known["program"], known["round"]] = math.inf if latency is None else latency
    order = dict(zip(names, zip(winners, lines, strict=True), strict=True))
    for number in range(rounds):
        for name, (winner, line) in order.items():
            if (name, number) in done:
                continue
            loaded, _ = ansor.measure_record.load_record_from_string(line)
            inputs = [ansor.MeasureInput(task_of(winner), loaded.state)]
            built = builder.build(inputs, verbose=0)
            latency = latency_of(runner.run(inputs, built, verbose=0)[0])
            done[name, number] = latency
            shown = latency if math.isfinite(latency) else None
            with file.open("ab") as out:
                row = {"program": name, "round": number, "latency": shown}
                out.write(orjson.dumps(row) + b"\n")
            report(len(done))
    return [statistics.median(done[name, number] for number in range(rounds)) for name in names]
