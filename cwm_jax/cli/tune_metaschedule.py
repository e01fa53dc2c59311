"""`cwm tune --engine metaschedule`: an operator, searched by today's TVM."""

import argparse
import dataclasses
import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cwm_jax.cli.common import milliseconds, say, write_json
from cwm_jax.cli.tune import interrupted, load_scorer
from cwm_jax.errors import CwmError, RecordError
from cwm_jax.tvm_bridge.workloads import parse_workload

if TYPE_CHECKING:
    from cwm_jax.tvm_bridge.metaschedule_tuning import SearchConfig, SearchResult, SearchRound


def run_metaschedule(options: argparse.Namespace) -> int:
    """Runs the search and prints the outcome."""
    refuse_ansors_options(options)
    workload = parse_workload(options.workload)
    folder = search_folder(options, options.workload)
    scorer = load_scorer(options)

    from cwm_jax.tvm_bridge.metaschedule_targets import create_module, resolve_target
    from cwm_jax.tvm_bridge.metaschedule_tuning import best_schedule, tune_module
    from cwm_jax.tvm_bridge.runtime import use

    tvm = use("metaschedule")
    target = resolve_target(tvm, options.target)
    module = create_module(tvm, workload, target)
    config = search_config(options)
    console = Console()
    say(console, f"{options.workload} on {target}, folder {folder}")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console
    ) as progress:
        bar = progress.add_task("searching", total=config.trials)

        def report(done: "SearchRound") -> None:
            text = f"best {milliseconds(done.best_latency)}"
            progress.update(bar, completed=done.trials, description=text)

        try:
            result = tune_module(tvm, module, target, config, folder, scorer=scorer, report=report)
        except KeyboardInterrupt:
            raise interrupted(folder) from None
    if result.best is None:
        why = result.first_error or "no candidate was found"
        say(console, f"none of {len(result.latencies)} trials succeeded ({why}); folder {folder}")
        return 1
    schedule = best_schedule(tvm, module, target, folder)
    text = schedule.mod.script() if schedule is not None else ""
    say(console, text)
    _print_outcome(console, result, folder)
    write_json(options.json, _as_data(options, result, text, folder))
    return 0


def search_config(options: argparse.Namespace) -> "SearchConfig":
    """Returns the settings that the options ask for."""
    from cwm_jax.tvm_bridge.metaschedule_tuning import SearchConfig

    return SearchConfig(
        trials=options.trials,
        round_size=options.round,
        cost_model=options.cost_model,
        seed=options.seed,
        adaptation=options.adaptation,
    )


def search_folder(options: argparse.Namespace, what: str) -> Path:
    """Returns the folder to write or to go on with; a new one is named after `what` is tuned.

    Raises:
        CwmError: The options contradict each other, or the folder is there or missing.
    """
    if options.resume:
        if options.log:
            raise CwmError("--log and --resume both name a folder; --resume alone goes on with it")
        if not options.resume.is_dir():
            raise RecordError(f"{options.resume}: no such folder of a search")
        return options.resume
    if options.log:
        if options.log.exists():
            raise CwmError(f"{options.log} exists; go on with it by --resume, or name another")
        return options.log
    name = re.sub(r"[^A-Za-z0-9]+", "-", what).strip("-")[:60]
    return Path("runs") / f"{name}-{options.cost_model}-{time.strftime('%Y%m%d-%H%M%S')}"


def refuse_ansors_options(options: argparse.Namespace) -> None:
    """Refuses what only Ansor does.

    Raises:
        CwmError: Names the option.
    """
    if options.search == "planner":
        raise CwmError("--search planner imagines Ansor's steps: --engine ansor")
    for name in ("rpc", "pretrain"):
        if getattr(options, name):
            raise CwmError(f"--{name} is for --engine ansor")


def _phases(result: "SearchResult") -> dict[str, float]:
    return {
        name: sum(getattr(done, f"{name}_seconds") for done in result.rounds)
        for name in ("search", "measure", "model")
    }


def _print_outcome(console: Console, result: "SearchResult", folder: Path) -> None:
    best = min(result.latencies)
    failed = sum(not math.isfinite(latency) for latency in result.latencies)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in _phases(result).items())
    speed = f", {result.flop / best / 1e9:.1f} GFLOP/s" if result.flop else ""
    say(
        console,
        f"best latency {milliseconds(best)}{speed}, {len(result.latencies)} trials "
        f"({failed} failed)\n{seconds}\nfolder {folder}",
    )
    if failed and result.first_error:
        say(console, f"first failure: {result.first_error}")
    if result.stopped_early:
        say(console, "the search found no further candidates and stopped early")


def _as_data(
    options: argparse.Namespace, result: "SearchResult", schedule: str, folder: Path
) -> dict[str, Any]:
    best = min(result.latencies)
    return {
        "engine": options.engine,
        "workload": options.workload,
        "workload_key": result.workload_key,
        "target": result.target,
        "cost_model": options.cost_model,
        "seed": options.seed,
        "trials": len(result.latencies),
        "latencies": [x if math.isfinite(x) else None for x in result.latencies],
        "best_latency": best,
        "gflops": result.flop / best / 1e9,
        "seconds": _phases(result),
        "rounds": [dataclasses.asdict(done) for done in result.rounds],
        "schedule": schedule,
        "folder": str(folder),
        "stopped_early": result.stopped_early,
    }
