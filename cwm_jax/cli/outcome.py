"""What `cwm tune --workload` says, whichever engine searched."""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cwm_jax.cli.common import milliseconds, say, write_json
from cwm_jax.records.record import Record

if TYPE_CHECKING:
    from cwm_jax.tuning.loop import SearchResult

_PHASES = ("search", "measure", "model")
_APART = 1.2
"""Measurements of one program that differ by this factor make a search a lottery."""


def seconds_by_phase(rounds: Sequence[Any]) -> dict[str, float]:
    """Sums up what rounds took to search, to measure and in the model."""
    return {name: sum(getattr(done, f"{name}_seconds") for done in rounds) for name in _PHASES}


def say_none_succeeded(console: Console, result: "SearchResult", place: Path) -> None:
    """Says that a search found nothing, and why."""
    why = result.first_error or "no candidate was found"
    say(console, f"none of {len(result.latencies)} trials succeeded ({why}); log {place}")


def runs_reference(options: argparse.Namespace, target: str) -> bool:
    """Whether `--reference-every` could be given for a target."""
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
    result: "SearchResult",
    best: Record,
    schedule: str,
    place: Path,
) -> None:
    """Prints the outcome of a search and writes the JSON that is asked for.

    Args:
        options: Of the command.
        console: To print on.
        result: Of the search.
        best: Its fastest program, with all that was measured of it.
        schedule: The same as text.
        place: Log or folder of the search.
    """
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
            "search": options.search,
            "seed": options.seed,
            "trials": len(result.latencies),
            "reference_every": options.reference_every,
            "latencies": [x if math.isfinite(x) else None for x in result.latencies],
            "best_latency": latency,
            "best_measured": measured,
            "gflops": flop / latency / 1e9,
            "seconds": phases,
            "rounds": [dataclasses.asdict(done) for done in result.rounds],
            "schedule": schedule,
            "log": str(place),
            "stopped_early": result.stopped_early,
        },
    )
