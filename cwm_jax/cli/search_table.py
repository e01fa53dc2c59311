"""Prints the tables of `cwm bench search`."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cwm_jax.bench.search_summary import (
    Found,
)
from cwm_jax.cli.common import say


def print_table(
    console: Console,
    found: Sequence[Found],
    summary: Mapping[str, Any],
    options: argparse.Namespace,
    rival: str,
) -> None:
    """Prints what was found.

    Args:
        console: Console to print on.
        found: Outcomes of all searches.
        summary: Summary of all variants (`summarise`).
        options: Options of the command.
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
    for variant, figures in summary.items():
        for trials, speedup in figures["speedup"].items():
            if speedup["pairs"]:
                low, high = speedup["interval"]
                say(
                    console,
                    f"{variant} over {rival}, {trials} trials: geometric mean "
                    f"{speedup['geomean']:.3f} (95 % {low:.3f} to {high:.3f}), worst workload "
                    f"{speedup['worst']:.3f}, {speedup['pairs']} pairs",
                )
        if figures["headroom"]["workloads"]:
            say(
                console,
                f"{variant}: {figures['headroom']['captured']:.0%} of a headroom of "
                f"{figures['headroom']['headroom']:.3f}, "
                f"{figures['headroom']['workloads']} workloads",
            )
        say(console, f"{variant}: round time {figures['round_seconds_ratio']:.3f} of {rival}'s")
