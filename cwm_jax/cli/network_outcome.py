"""What `cwm tune --network` says, whichever engine searched."""

import argparse
import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from cwm_jax.cli.common import milliseconds, say, write_json
from cwm_jax.cli.outcome import seconds_by_phase
from cwm_jax.errors import CwmError, OutputError

if TYPE_CHECKING:
    from cwm_jax.tuning.network import NetworkTuningResult


class NetworkTask(NamedTuple):
    """One task of a network.

    Attributes:
        key: Of its records.
        description: For people.
        weight: How often it occurs.
        flop: Floating-point operations.
    """

    key: str
    description: str
    weight: int
    flop: float


def print_tasks(
    console: Console, tasks: Sequence[NetworkTask], result: "NetworkTuningResult"
) -> None:
    """Prints a table of the tasks and the latencies found."""
    table = Table("task", "times", "trials", "best latency", "GFLOP/s")
    rows = zip(tasks, result.trials, result.best_latencies, strict=True)
    for task, trials, best in rows:
        speed = f"{task.flop / best / 1e9:.1f}" if best < math.inf else "-"
        table.add_row(task.description, str(task.weight), str(trials), milliseconds(best), speed)
    console.print(table)


def finish(
    options: argparse.Namespace,
    console: Console,
    name: str,
    target: str,
    tasks: Sequence[NetworkTask],
    result: "NetworkTuningResult",
    timings: Sequence[float],
    library: Any,
    log: Path,
) -> None:
    """Prints the network's latency, and writes the library and the JSON that are asked for.

    Raises:
        OutputError: A file cannot be written.
    """
    say(
        console,
        f"one inference takes {milliseconds(statistics.median(timings))} "
        f"(median of {len(timings)}); the sum over its tasks was "
        f"{milliseconds(result.network_latency)}\nlog {log}",
    )
    if options.export:
        _export(library, options.export)
        say(console, f"wrote {options.export}")
    if result.first_error:
        say(console, f"first failure: {result.first_error}")
    write_json(options.json, _as_data(options, name, target, tasks, result, timings))


def check_export(path: Path | None) -> None:
    """Refuses the name of a library that TVM would not write.

    Raises:
        CwmError: The name has another ending.
    """
    if path and path.suffix not in (".so", ".tar"):
        raise CwmError(f"--export {path}: expected a name that ends in .so or .tar")


def check_trials(options: argparse.Namespace, tasks: int) -> None:
    """Refuses a network without tasks, and fewer trials than tasks.

    Raises:
        CwmError: Which of both.
    """
    if not tasks:
        raise CwmError(f"{options.network}: holds no operator that {options.engine} can tune")
    confirm = options.confirm or 0
    if options.trials - confirm < tasks:
        less = f" less --confirm {confirm}" if confirm else ""
        raise CwmError(
            f"--trials {options.trials}{less}: {options.network} has {tasks} tasks, and each needs "
            "at least one"
        )


def _export(library: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        library.export_library(str(path))
    except (OSError, RuntimeError) as error:  # the latter by the linker
        why = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise OutputError(f"{path}: cannot be written ({why})") from error


def _as_data(
    options: argparse.Namespace,
    name: str,
    target: str,
    tasks: Sequence[NetworkTask],
    result: "NetworkTuningResult",
    timings: Sequence[float],
) -> dict[str, Any]:
    rows = zip(tasks, result.trials, result.best_latencies, strict=True)
    return {
        "network": name,
        "engine": options.engine,
        "target": target,
        "cost_model": options.cost_model,
        "search": options.search,
        "seed": options.seed,
        "trials": sum(result.trials),
        "tasks": [
            {
                "workload_key": task.key,
                "description": task.description,
                "weight": task.weight,
                "trials": trials,
                "best_latency": _finite(best),
            }
            for task, trials, best in rows
        ],
        "estimated_latency": _finite(result.network_latency),
        "latency": statistics.median(timings),
        "latencies": list(timings),
        "seconds": seconds_by_phase(result.rounds),
        "rounds": [
            dataclasses.asdict(done) | {"network_latency": _finite(done.network_latency)}
            for done in result.rounds
        ],
        "export": str(options.export) if options.export else None,
    }


def _finite(latency: float) -> float | None:
    return latency if math.isfinite(latency) else None
