"""What `cwm tune` shows: where a search is kept, its progress, and its outcome."""

import argparse
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn
from rich.table import Table

from cwm_jax.cli.common import (
    checkpoint_of,
    lock_output,
    milliseconds,
    open_progress,
    say,
    write_json,
)
from cwm_jax.errors import CwmError, OutputError, RecordError
from cwm_jax.files import Output, check_outputs
from cwm_jax.interrupts import note_kept
from cwm_jax.records.record import Record
from cwm_jax.tuning.registry import EngineDescription

if TYPE_CHECKING:
    from cwm_jax.ranking.scorer import Scorer
    from cwm_jax.tuning.engine import RoundResult, Task
    from cwm_jax.tuning.loop import TuningResult
    from cwm_jax.tuning.network import NetworkTuningResult
    from cwm_jax.tuning.tune import NetworkResult

_PHASES = ("search", "measure", "model")
_APART = 1.2
"""Measurements of one program that differ by this factor make a search a lottery."""


def load_scorer(options: argparse.Namespace) -> "Scorer | None":
    """Loads the world model, if that is the cost model."""
    if options.cost_model != "world-model":
        return None
    from cwm_jax.ranking.scorer import Scorer

    return Scorer.load(checkpoint_of(options), options.hardware)


def search_place(options: argparse.Namespace, engine: EngineDescription, what: str) -> Path:
    """Returns the log or folder to write or to go on with; a new one is named after `what`.

    No other process may write it until the command ends.

    Raises:
        CwmError: The options contradict each other, the log is there or missing, an output cannot
            be written, or another process writes the log.
    """
    from cwm_jax.tuning.tune import holds_trials, new_place

    if options.resume and options.log:
        raise CwmError("--log and --resume name the same thing; --resume alone goes on with it")
    if options.resume and not engine.in_folder and not options.resume.is_file():
        raise RecordError(f"{options.resume}: no such log")
    if options.resume and engine.in_folder and not options.resume.is_dir():
        raise RecordError(f"{options.resume}: no such folder of a search")
    path = options.resume or options.log or new_place(engine, what, options.cost_model)
    check_outputs(
        Output("--resume" if options.resume else "--log", path, engine.in_folder),
        Output("--json", options.json),
        Output("--export", options.export),
    )
    if path.is_file() and not os.access(path, os.W_OK):
        raise CwmError(f"{path}: cannot be written (Permission denied)")
    taken = holds_trials(path)
    lock_output(options, path, folder=engine.in_folder)
    if options.log and taken:
        raise CwmError(f"{path} exists; go on with it by --resume, or name another")
    if not engine.in_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def shown_search(
    console: Console, trials: int, place: Path, what: str
) -> Iterator[Callable[[int, float], None]]:
    """Shows a bar while a search runs, and says how to go on if it is interrupted.

    Args:
        console: Console to draw on.
        trials: Candidates to measure in all.
        place: Log or folder of the search.
        what: Names the latency that is shown.

    Yields:
        A function that takes the candidates measured so far, and a latency in seconds.
    """
    with (
        note_kept(partial(_how_to_go_on, place)),
        open_progress(console, BarColumn(), MofNCompleteColumn()) as progress,
    ):
        bar = progress.add_task("searching", total=trials)

        def report(done: int, latency: float) -> None:
            progress.update(bar, completed=done, description=f"{what} {milliseconds(latency)}")

        yield report


def _how_to_go_on(place: Path) -> str:
    """Says of a search that is interrupted what is kept."""
    if place.is_file() or (place / "records.jsonl").exists():
        return f"finished rounds are in {place}, go on with --resume {place}"
    return "no round was measured yet"


def seconds_by_phase(rounds: Sequence[Any]) -> dict[str, float]:
    """Sums up what rounds took to search, to measure and in the model."""
    return {name: sum(getattr(done, f"{name}_seconds") for done in rounds) for name in _PHASES}


def say_none_succeeded(console: Console, result: "TuningResult") -> None:
    """Says that a search found nothing, and why."""
    why = result.first_error or "no candidate was found"
    say(console, f"none of {len(result.latencies)} trials succeeded ({why}); log {result.place}")


def runs_reference(options: argparse.Namespace, target: str) -> bool:
    """Returns whether `--reference-every` can be given for a target."""
    return "llvm" in target and not options.rpc


def say_noise(console: Console, best: Record) -> None:
    """Says what helps where measurements of the best program are far apart."""
    low, high = min(best.costs), max(best.costs)
    if high > _APART * low:
        say(
            console,
            f"its measurements are {high / low - 1:.0%} apart: if other things run on this "
            "machine, stop them; if others share it, --reference-every 1 tells a slow program from "
            "a slow machine",
        )


def finish(
    options: argparse.Namespace,
    console: Console,
    result: "TuningResult",
    search: str,
) -> None:
    """Prints the outcome of a search and writes the JSON that is asked for.

    Args:
        options: Options of the command.
        console: Console to print on.
        result: Result of a search in which a trial succeeded.
        search: How candidates were found.
    """
    best, schedule, place = result.best, result.schedule, result.place
    assert best is not None
    latency, measured, flop = best.latency, len(best.costs), result.flop
    failed = sum(not math.isfinite(latency) for latency in result.latencies)
    phases = seconds_by_phase(result.rounds)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in phases.items())
    speed = f", {flop / latency / 1e9:.1f} GFLOP/s" if flop else ""
    say(console, schedule)
    say(
        console,
        f"best latency {milliseconds(latency)}{speed}"
        + (f" (mean of {measured} measurements)" if measured > 1 else "")
        + f", {len(result.latencies)} trials ({failed} failed)\n{seconds}\nlog {place}",
    )
    if options.reference_every is None and runs_reference(options, result.target):
        say_noise(console, best)
    if failed and result.first_error:
        say(console, f"first failure: {result.first_error}")
    if result.stopped_early:
        say(console, "the search found no further candidates and stopped early")
    write_json(
        options.json,
        {
            "workload": options.workload,
            "workload_key": result.workload_key,
            "engine": options.engine,
            "target": result.target,
            "cost_model": options.cost_model,
            "search": search,
            "seed": options.seed,
            "trials": len(result.latencies),
            "reference_every": options.reference_every,
            "latencies": [x if math.isfinite(x) else None for x in result.latencies],
            "best_latency": latency,
            "best_measured": measured,
            "gflops": flop / latency / 1e9,
            "seconds": phases,
            "rounds": [_round_as_data(done) for done in result.rounds],
            "schedule": schedule,
            "log": str(place),
            "stopped_early": result.stopped_early,
        },
    )


def _round_as_data(done: "RoundResult") -> dict[str, Any]:
    data = dataclasses.asdict(done)
    del data["task"], data["first_error"]
    return data


def print_tasks(console: Console, tasks: Sequence["Task"], result: "NetworkTuningResult") -> None:
    """Prints a table of a network's tasks and the latencies found."""
    table = Table("task", "times", "trials", "best latency", "GFLOP/s")
    rows = zip(tasks, result.trials, result.best_latencies, strict=True)
    for task, trials, best in rows:
        speed = f"{task.flop / best / 1e9:.1f}" if best < math.inf else "-"
        table.add_row(task.description, str(task.weight), str(trials), milliseconds(best), speed)
    console.print(table)


def finish_network(
    options: argparse.Namespace, console: Console, result: "NetworkResult", search: str
) -> None:
    """Prints a network's latency, and writes the library and the JSON that are asked for.

    Raises:
        OutputError: A file cannot be written.
    """
    tuned = result.tuning
    say(
        console,
        f"one inference takes {milliseconds(result.best_latency)} "
        f"(median of {len(result.latencies)}); the sum over its tasks was "
        f"{milliseconds(tuned.network_latency)}\nlog {result.place}",
    )
    if options.export:
        _export(result.library, options.export)
        say(console, f"wrote {options.export}")
    if tuned.first_error:
        say(console, f"first failure: {tuned.first_error}")
    rows = zip(result.tasks, tuned.trials, tuned.best_latencies, strict=True)
    write_json(
        options.json,
        {
            "network": result.name,
            "engine": options.engine,
            "target": result.target,
            "cost_model": options.cost_model,
            "search": search,
            "seed": options.seed,
            "trials": sum(tuned.trials),
            "tasks": [
                {
                    "workload_key": task.workload_key,
                    "description": task.description,
                    "weight": task.weight,
                    "trials": trials,
                    "best_latency": _finite(best),
                }
                for task, trials, best in rows
            ],
            "estimated_latency": _finite(tuned.network_latency),
            "latency": result.best_latency,
            "latencies": list(result.latencies),
            "seconds": seconds_by_phase(tuned.rounds),
            "rounds": [
                {
                    "task": done.task,
                    "trials": done.trials,
                    "network_latency": _finite(done.best_latency),
                    **{f"{name}_seconds": getattr(done, f"{name}_seconds") for name in _PHASES},
                }
                for done in tuned.rounds
            ],
            "export": str(options.export) if options.export else None,
        },
    )


def check_export(path: Path | None) -> None:
    """Refuses the name of a library that TVM would not write.

    Raises:
        CwmError: The name has another ending.
    """
    if path and path.suffix not in (".so", ".tar"):
        raise CwmError(f"--export {path}: expected a name that ends in .so or .tar")


def _export(library: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        library.export_library(str(path))
    except (OSError, RuntimeError) as error:  # the latter by the linker
        why = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise OutputError(f"{path}: cannot be written ({why})") from error


def _finite(latency: float) -> float | None:
    return latency if math.isfinite(latency) else None
