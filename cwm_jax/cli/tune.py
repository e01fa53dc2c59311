"""`cwm tune`: search for a fast schedule of an operator on this machine."""

import argparse
import dataclasses
import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cwm_jax.cli.common import add_json_option, positive, say, write_json
from cwm_jax.errors import CwmError, RecordError
from cwm_jax.records.program import programs_path, write_programs
from cwm_jax.tvm_bridge.workloads import operators_help, parse_workload

if TYPE_CHECKING:
    from cwm_jax.tvm_bridge.tuning import Round, TuningResult


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "tune",
        help="search for a fast schedule on this machine",
        description="Runs an Ansor search on this machine's CPU with a world model as its cost "
        "model, and keeps every measurement in a log.",
        epilog=operators_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workload", required=True, help="OPERATOR:SHAPE, see below")
    parser.add_argument("--trials", type=positive, default=64, help="programs to measure (64)")
    parser.add_argument(
        "--cost-model", choices=("world-model", "xgboost", "random"), default="world-model"
    )
    parser.add_argument(
        "--checkpoint", default="cpu-x86-2core", help="name or folder of the world model"
    )
    parser.add_argument(
        "--search",
        choices=("evolutionary", "planner"),
        default="evolutionary",
        help="Ansor's evolutionary search, or planning in latent space (default: evolutionary)",
    )
    parser.add_argument("--target", help="TVM target (default: this machine's CPU)")
    parser.add_argument("--log", type=Path, help="log to write (default: a new one in runs/)")
    parser.add_argument("--resume", type=Path, metavar="LOG", help="go on with this log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--round", type=positive, default=16, help="programs to measure a round (16)"
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the search and prints the outcome."""
    if options.search == "planner" and options.cost_model != "world-model":
        raise CwmError("--search planner imagines with the world model: --cost-model world-model")
    workload = parse_workload(options.workload)
    log = _log_path(options)
    scorer = None
    if options.cost_model == "world-model":
        from cwm_jax.ranking.scorer import Scorer

        scorer = Scorer.load(options.checkpoint)

    from cwm_jax.tvm_bridge.programs import program_of_task
    from cwm_jax.tvm_bridge.runtime import use
    from cwm_jax.tvm_bridge.targets import resolve_target
    from cwm_jax.tvm_bridge.tuning import (
        TuningConfig,
        resumable_records,
        schedule_text,
        tune_task,
    )
    from cwm_jax.tvm_bridge.workloads import create_task

    tvm = use("ansor")
    task = create_task(tvm, workload, resolve_target(tvm, options.target))
    earlier = []
    if options.resume:
        earlier = resumable_records(log, task.workload_key, str(task.target))
    log.parent.mkdir(parents=True, exist_ok=True)
    # Training on this log needs the compute graph, and should not need TVM.
    write_programs([program_of_task(tvm, task)], programs_path(log))
    config = TuningConfig(
        trials=options.trials,
        round_size=options.round,
        cost_model=options.cost_model,
        seed=options.seed,
        search=options.search,
    )
    console = Console()
    flop = float(task.compute_dag.flop_ct)
    say(console, f"{options.workload} on {task.target}, log {log}")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console
    ) as progress:
        bar = progress.add_task("searching", total=config.trials, completed=len(earlier))

        def report(done: "Round") -> None:
            text = f"best {_milliseconds(done.best_latency)}"
            progress.update(bar, completed=done.trials, description=text)

        try:
            result = tune_task(
                tvm, task, config, log, scorer=scorer, earlier=earlier, report=report
            )
        except KeyboardInterrupt:
            raise _interrupted(log) from None
    if result.best is None:
        why = result.first_error or "no candidate was found"
        say(console, f"none of {len(result.latencies)} trials succeeded ({why}); log {log}")
        return 1
    schedule = schedule_text(tvm, task, result.best)
    _print_outcome(console, result, schedule, flop, log)
    write_json(options.json, _as_data(options, result, schedule, flop, log))
    return 0


def _log_path(options: argparse.Namespace) -> Path:
    if options.resume:
        if options.log:
            raise CwmError("--log and --resume both name a log; --resume alone appends to it")
        if not options.resume.is_file():
            raise RecordError(f"{options.resume}: no such log")
        return options.resume
    if options.log:
        if options.log.exists():
            raise CwmError(f"{options.log} exists; go on with it by --resume, or name another")
        return options.log
    name = re.sub(r"[^A-Za-z0-9]+", "-", options.workload).strip("-")[:60]
    return Path("runs") / f"{name}-{options.cost_model}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"


def _interrupted(log: Path) -> CwmError:
    if log.exists():
        return CwmError(f"interrupted; finished rounds are in {log}, go on with --resume {log}")
    return CwmError("interrupted before the first round was measured")


def _milliseconds(latency: float) -> str:
    return f"{latency * 1e3:.4f} ms" if math.isfinite(latency) else "none yet"


def _phases(result: "TuningResult") -> dict[str, float]:
    return {
        "search": sum(done.search_seconds for done in result.rounds),
        "measure": sum(done.measure_seconds for done in result.rounds),
        "model": sum(done.model_seconds for done in result.rounds),
    }


def _print_outcome(
    console: Console, result: "TuningResult", schedule: str, flop: float, log: Path
) -> None:
    best = min(result.latencies)
    failed = sum(not math.isfinite(latency) for latency in result.latencies)
    say(console, schedule)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in _phases(result).items())
    say(
        console,
        f"best latency {_milliseconds(best)}, {flop / best / 1e9:.1f} GFLOP/s, "
        f"{len(result.latencies)} trials ({failed} failed)\n{seconds}\nlog {log}",
    )
    if failed and result.first_error:
        say(console, f"first failure: {result.first_error}")
    if result.stopped_early:
        say(console, "the search found no further candidates and stopped early")


def _as_data(
    options: argparse.Namespace, result: "TuningResult", schedule: str, flop: float, log: Path
) -> dict[str, Any]:
    best = min(result.latencies)
    return {
        "workload": options.workload,
        "workload_key": result.workload_key,
        "target": result.target,
        "cost_model": options.cost_model,
        "search": options.search,
        "seed": options.seed,
        "trials": len(result.latencies),
        "latencies": [x if math.isfinite(x) else None for x in result.latencies],
        "best_latency": best,
        "gflops": flop / best / 1e9,
        "seconds": _phases(result),
        "rounds": [dataclasses.asdict(done) for done in result.rounds],
        "schedule": schedule,
        "log": str(log),
        "stopped_early": result.stopped_early,
    }
