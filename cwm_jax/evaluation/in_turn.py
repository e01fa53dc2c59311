"""Timing commands against each other: in turn, each time in a fresh process."""

import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence

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
