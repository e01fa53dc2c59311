"""`cwm tune --network`: all tasks of a network, then the compiled network itself."""

import argparse
import dataclasses
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from cwm_jax.cli.common import say, write_json
from cwm_jax.cli.tune import interrupted, load_scorer, log_path, milliseconds, tuning_config
from cwm_jax.errors import CwmError
from cwm_jax.records.program import programs_path, write_programs

if TYPE_CHECKING:
    from cwm_jax.tvm_bridge.network_tuning import NetworkRound, NetworkTuningResult

_TIMINGS = 5


def run_network(options: argparse.Namespace) -> int:
    """Tunes, compiles, times and exports a network."""
    from cwm_jax.tvm_bridge.deployment import build_network, random_inputs, time_network
    from cwm_jax.tvm_bridge.network_sources import load_network
    from cwm_jax.tvm_bridge.network_tuning import tune_network
    from cwm_jax.tvm_bridge.networks import extract_tasks
    from cwm_jax.tvm_bridge.programs import program_of_task
    from cwm_jax.tvm_bridge.runtime import use
    from cwm_jax.tvm_bridge.targets import resolve_target
    from cwm_jax.tvm_bridge.tuning import resumable_records

    if options.export and options.export.suffix not in (".so", ".tar"):
        raise CwmError(f"--export {options.export}: expected a name that ends in .so or .tar")
    log = log_path(options, options.network)
    tvm = use("ansor")
    source = load_network(tvm, options.network, options.seed)
    scorer = load_scorer(options)
    target = resolve_target(tvm, options.target, remote=bool(options.rpc))
    console = Console()
    tasks = extract_tasks(tvm, source.module, source.params, target)
    if not tasks:
        raise CwmError(f"{options.network}: holds no operator that Ansor can tune")
    if options.trials < len(tasks):
        raise CwmError(
            f"--trials {options.trials}: {options.network} has {len(tasks)} tasks, and each "
            "needs at least one"
        )
    earlier = []
    if options.resume:
        keys = [str(task.workload_key) for task, _ in tasks]
        earlier = resumable_records(log, keys, str(target))
    log.parent.mkdir(parents=True, exist_ok=True)
    write_programs([program_of_task(tvm, task) for task, _ in tasks], programs_path(log))
    config = tuning_config(options)
    say(console, f"{source.name}: {len(tasks)} tasks on {target}, log {log}")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console
    ) as progress:
        bar = progress.add_task("searching", total=config.trials, completed=len(earlier))

        def report(done: "NetworkRound") -> None:
            text = f"estimated latency {milliseconds(done.network_latency)}"
            progress.update(bar, completed=done.trials, description=text)

        try:
            result = tune_network(
                tvm, tasks, config, log, scorer=scorer, earlier=earlier, report=report
            )
        except KeyboardInterrupt:
            raise interrupted(log) from None
    _print_tasks(console, tasks, result)
    say(console, f"compiling {source.name}")
    library = build_network(tvm, source, target, log)
    inputs = random_inputs(source, options.seed)
    timings = time_network(tvm, library, target, inputs, _TIMINGS, config.tracker)
    say(
        console,
        f"one inference takes {milliseconds(statistics.median(timings))} "
        f"(median of {_TIMINGS}); the sum over its tasks was "
        f"{milliseconds(result.network_latency)}\nlog {log}",
    )
    if options.export:
        _export(library, options.export)
        say(console, f"wrote {options.export}")
    if result.first_error:
        say(console, f"first failure: {result.first_error}")
    write_json(options.json, _as_data(options, source.name, str(target), tasks, result, timings))
    return 0


def _export(library: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        library.export_library(str(path))
    except OSError as error:
        raise CwmError(f"{path}: cannot be written ({error})") from error


def _print_tasks(
    console: Console, tasks: list[tuple[Any, int]], result: "NetworkTuningResult"
) -> None:
    table = Table("task", "times", "trials", "best latency", "GFLOP/s")
    rows = zip(tasks, result.trials, result.best_latencies, strict=True)
    for (task, weight), trials, best in rows:
        speed = f"{float(task.compute_dag.flop_ct) / best / 1e9:.1f}" if best < math.inf else "-"
        table.add_row(str(task.desc), str(weight), str(trials), milliseconds(best), speed)
    console.print(table)


def _as_data(
    options: argparse.Namespace,
    name: str,
    target: str,
    tasks: list[tuple[Any, int]],
    result: "NetworkTuningResult",
    timings: list[float],
) -> dict[str, Any]:
    rows = zip(tasks, result.trials, result.best_latencies, strict=True)
    phases = ("search", "model", "measure")
    return {
        "network": name,
        "target": target,
        "cost_model": options.cost_model,
        "search": options.search,
        "seed": options.seed,
        "trials": sum(result.trials),
        "tasks": [
            {
                "workload_key": str(task.workload_key),
                "description": str(task.desc),
                "weight": weight,
                "trials": trials,
                "best_latency": _finite(best),
            }
            for (task, weight), trials, best in rows
        ],
        "estimated_latency": _finite(result.network_latency),
        "latency": statistics.median(timings),
        "latencies": timings,
        "seconds": {
            phase: sum(getattr(done, f"{phase}_seconds") for done in result.rounds)
            for phase in phases
        },
        "rounds": [
            dataclasses.asdict(done) | {"network_latency": _finite(done.network_latency)}
            for done in result.rounds
        ],
        "export": str(options.export) if options.export else None,
    }


def _finite(latency: float) -> float | None:
    return latency if math.isfinite(latency) else None
