"""Timing commands against each other: in turn, each time in a fresh process."""

import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson


def time_in_turn(
    commands: Mapping[str, Sequence[str]],
    rounds: int,
    report: Callable[[str, float], None] = lambda name, seconds: None,
) -> dict[str, list[float]]:
    """Runs commands in turn, so that a drift of the machine touches all of them.

    Args:
        commands: By name; each prints `{"seconds": [...]}` as its last line.
        rounds: How often each of them is run.
        report: Called with what each run took.

    Returns:
        Medians in seconds of each run, by name.

    Raises:
        subprocess.CalledProcessError: A command failed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured = orjson.loads(done.stdout.splitlines()[-1])["seconds"]
            seconds[name].append(statistics.median(measured))
            report(name, seconds[name][-1])
    return seconds


def speedup(seconds: Mapping[str, Sequence[float]], ours: str, rival: str) -> dict[str, Any]:
    """Compares what `time_in_turn` returned of two commands.

    Args:
        seconds: By name, one entry a round.
        ours: Name of the one.
        rival: Name of the other.

    Returns:
        `speedup`, the rival's median over ours, and `pairs`, the ratio of each round.
    """
    return {
        "speedup": statistics.median(seconds[rival]) / statistics.median(seconds[ours]),
        "pairs": [a / b for a, b in zip(seconds[rival], seconds[ours], strict=True)],
    }
