"""What `cwm bench search` tells of its searches."""

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cwm_jax.bench.search_summary import (
    Found,
    best_so_far,
    captured_headroom,
    compare,
    round_seconds_ratio,
)
from cwm_jax.cli.common import say


def round_seconds(rounds: Sequence[Mapping[str, float]]) -> float:
    """Seconds of a round in search and model: median over the rounds that searched."""
    return statistics.median(
        done["search_seconds"] + done["model_seconds"]
        for done in rounds
        if not done.get("confirming")
    )


def curve_of(told: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Returns how a search went.

    Args:
        told: By `cwm tune`.
        scale: By what its latencies are multiplied.

    Returns:
        The `best` latency in seconds after each trial, None before the first that succeeded; at
        the end of each round the trials, `round_trials`, and the seconds, `round_ends`; and
        `predicted_per_second` (None where the engine does not tell).
    """
    best = [scale * latency for latency in best_so_far(told["latencies"])]
    return {
        "best": [latency if math.isfinite(latency) else None for latency in best],
        **_clock(told),
        "predicted_per_second": _predicted_per_second(told["rounds"]),
    }


def _predicted_per_second(rounds: Sequence[Mapping[str, float]]) -> float | None:
    """Candidates scored per second in the model, learning included, once it has learned."""
    later = [done for done in rounds[1:] if done.get("predicted")]
    seconds = sum(done["model_seconds"] for done in later)
    return sum(done["predicted"] for done in later) / seconds if later else None


def _clock(told: Mapping[str, Any]) -> dict[str, list[float]]:
    phases = ("search_seconds", "model_seconds", "measure_seconds")
    seconds = np.cumsum([sum(done[phase] for phase in phases) for done in told["rounds"]])
    return {
        "round_trials": [done["trials"] for done in told["rounds"]],
        "round_ends": [round(float(end), 3) for end in seconds],
    }


def summarise(
    found: Sequence[Found],
    variants: Sequence[str],
    trials: Sequence[int],
    optimum: Mapping[tuple[str, int], float],
    rival: str,
) -> dict[str, Any]:
    """Each variant against the rival: speed-ups, headroom, time a round.

    Args:
        found: What all searches found.
        variants: To compare.
        trials: After how many.
        optimum: As for `captured_headroom`.
        rival: The variant that they are compared with.
    """
    return {
        variant: {
            "speedup": {str(n): compare(found, variant, rival, n) for n in trials},
            "headroom": captured_headroom(found, variant, rival, max(trials), optimum),
            "round_seconds_ratio": round_seconds_ratio(found, variant, rival),
        }
        for variant in variants
    }


def headline(summary: Mapping[str, Any], variant: str, trials: int, rival: str) -> dict[str, float]:
    """Returns the figures of one variant that a table is headed by.

    Args:
        summary: Of all variants (`summarise`).
        variant: One of them.
        trials: After how many.
        rival: How the keys call what the variants are compared with.
    """
    speedup = summary[variant]["speedup"][str(trials)]
    return {
        f"geomean_vs_{rival}_{trials}": speedup["geomean"],
        f"worst_vs_{rival}_{trials}": speedup["worst"],
        "captured_headroom": summary[variant]["headroom"]["captured"],
        "round_seconds_ratio": summary[variant]["round_seconds_ratio"],
    }


def print_table(
    console: Console,
    found: Sequence[Found],
    summary: Mapping[str, Any],
    options: argparse.Namespace,
    rival: str,
) -> None:
    """Prints what was found.

    Args:
        console: To print on.
        found: What all searches found.
        summary: Of all variants (`summarise`).
        options: Of the command.
        rival: The variant that the others are compared with.
    """
    longest = max(options.trials)
    table = Table(f"workload, {longest} trials", *(f"{name}, ms" for name in options.variants))
    for workload in options.workloads:
        cells = []
        for variant in options.variants:
            at = [
                f.latency * 1e3
                for f in found
                if (f.workload, f.variant, f.trials) == (workload, variant, longest)
            ]
            cells.append(" ".join(f"{latency:.3f}" for latency in at))
        table.add_row(workload, *cells)
    console.print(table)
    for variant, told in summary.items():
        for trials, speedup in told["speedup"].items():
            if speedup["pairs"]:
                low, high = speedup["interval"]
                say(
                    console,
                    f"{variant} over {rival}, {trials} trials: geometric mean "
                    f"{speedup['geomean']:.3f} (95 % {low:.3f} to {high:.3f}), worst workload "
                    f"{speedup['worst']:.3f}, {speedup['pairs']} pairs",
                )
        if told["headroom"]["workloads"]:
            say(
                console,
                f"{variant}: {told['headroom']['captured']:.0%} of a headroom of "
                f"{told['headroom']['headroom']:.3f}, {told['headroom']['workloads']} workloads",
            )
        say(console, f"{variant}: round time {told['round_seconds_ratio']:.3f} of {rival}'s")
