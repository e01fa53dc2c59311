"""What the subcommands share."""

import argparse
import math
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from cwm_jax.errors import CwmError
from cwm_jax.files import write_atomically
from cwm_jax.records.program import Program, load_programs, read_programs


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--json FILE`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here as JSON")


def write_json(path: Path | None, data: dict[str, Any]) -> None:
    """Writes JSON at once or not at all; does nothing without a path.

    Raises:
        CwmError: The file cannot be written.
    """
    if path is None:
        return
    text = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        raise CwmError(f"{path}: cannot be written ({error})") from error


LIKEST = "the shipped one whose CPU is most like this machine's"


def add_checkpoint_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Adds `--checkpoint NAME` and `--hardware CARD`.

    Args:
        parser: The subcommand's.
        default: A checkpoint, or None for the one of a machine like this (`checkpoint_of`).
    """
    parser.add_argument(
        "--checkpoint",
        default=default,
        help=f"name of a shipped world model, or a folder (default: {default or LIKEST})",
    )
    parser.add_argument(
        "--hardware",
        metavar="CARD",
        help="rank for this device in place of the checkpoint's own: name of a hardware card, or "
        "the path of a .json card",
    )


def checkpoint_of(options: argparse.Namespace) -> str:
    """Returns the checkpoint that is asked for, or the shipped one for a machine like this.

    Args:
        options: With `checkpoint` and `engine`.

    Raises:
        CheckpointError: None is asked for, and none for a CPU is shipped.
    """
    from cwm_jax.ranking.nearest import nearest_checkpoint

    return options.checkpoint or nearest_checkpoint(options.engine)


def programs_of_logs(logs: list[Path], extra: list[Path]) -> dict[str, Program]:
    """Reads the programs that lie beside logs, and those named."""
    programs: dict[str, Program] = {}
    for found in [*map(load_programs, logs), *map(read_programs, extra)]:
        programs |= found
    return programs


def occurrences_beside(log: Path) -> dict[str, dict[str, int]]:
    """Returns how often each network holds each workload of a log that `cwm collect` wrote.

    Empty for any other log.
    """
    from cwm_jax.tvm_bridge.corpus_files import Corpus
    from cwm_jax.tvm_bridge.corpus_tasks import read_tasks

    path = Corpus(log.parent).tasks
    tasks = read_tasks(path) if path.exists() else []
    return {task.workload_key: task.occurrences for task in tasks}


def say(console: Console, text: str) -> None:
    """Prints text as it is: unwrapped, so that paths can be copied, and without markup."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def positive(text: str) -> int:
    """Reads a positive integer option."""
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def not_negative(text: str) -> int:
    """Reads an option that is an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def seed(text: str) -> int:
    """Reads a seed: TVM's random numbers take 31 bits."""
    value = not_negative(text)
    if value >= 2**31:
        raise argparse.ArgumentTypeError(f"{value} is not below 2^31")
    return value


def milliseconds(latency: float) -> str:
    """Shows a latency in seconds."""
    return f"{latency * 1e3:.4f} ms" if math.isfinite(latency) else "none yet"
