"""What the subcommands share."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TextColumn

from cwm_jax.errors import CwmError, OutputError
from cwm_jax.files import locked_file, locked_folder, readable_json, write_atomically
from cwm_jax.records.graph import ComputeGraph, load_graphs, read_graphs


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--json FILE`."""
    parser.add_argument(
        "--json",
        type=output_path("--json"),
        metavar="FILE",
        help="write the results here as JSON",
    )


def output_path(option: str) -> Callable[[str], Path]:
    """Returns what reads the path of an output, for `argparse`.

    Args:
        option: That takes it.
    """

    def read(text: str) -> Path:
        if not text:  # to `Path`, that is the current folder
            raise CwmError(f"{option} '': expected the name of a file or folder")
        return Path(text)

    return read


def write_json(path: Path | None, data: dict[str, Any]) -> None:
    """Writes JSON at once or not at all; does nothing without a path.

    Raises:
        OutputError: The file cannot be written.
    """
    if path is None:
        return
    try:
        text = readable_json(data)
    except TypeError:  # names of files need not be UTF-8, JSON has to
        text = readable_json(_as_utf8(data))
    try:
        write_atomically(path, text)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from error


def _as_utf8(data: Any) -> Any:
    if isinstance(data, str):
        return data.encode(errors="backslashreplace").decode()
    if isinstance(data, dict):
        return {_as_utf8(key): _as_utf8(value) for key, value in data.items()}
    return [_as_utf8(entry) for entry in data] if isinstance(data, list | tuple) else data


def lock_output(options: argparse.Namespace, path: Path, *, folder: bool) -> None:
    """Keeps other processes from writing a file or folder until the command ends.

    Raises:
        CwmError: One does so already.
    """
    locked = locked_folder if folder else locked_file
    options.until_end.enter_context(locked(path))


ENGINE_HELP = "search engine: ansor, metaschedule, or MODULE:NAME of another (default: ansor)"
RECORDS_HELP = "logs, plain or gzip'd, or folders of MetaSchedule databases"
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
        options: Options of the command: `checkpoint` and `engine`.

    Raises:
        CheckpointError: None is asked for, and none for a CPU is shipped.
    """
    from cwm_jax.ranking.catalog import nearest_checkpoint

    return options.checkpoint or nearest_checkpoint(options.engine)


def graphs_of_logs(logs: list[Path], extra: list[Path]) -> dict[str, ComputeGraph]:
    """Reads the compute graphs that lie beside logs, and those named."""
    graphs: dict[str, ComputeGraph] = {}
    for found in [*map(load_graphs, logs), *map(read_graphs, extra)]:
        graphs |= found
    return graphs


def occurrences_beside(log: Path) -> dict[str, dict[str, int]]:
    """Returns how often each network holds each workload of a log that `cwm collect` wrote.

    Empty for any other log.
    """
    from cwm_jax.tuning.corpus import Corpus, read_tasks

    path = Corpus(log.parent).tasks
    tasks = read_tasks(path) if path.exists() else []
    return {task.workload_key: task.occurrences for task in tasks}


class _Console(Console):
    """Prints nothing more when nobody reads it, and lets the work go on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


def open_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Returns a console that prints names, paths and errors as they are.

    Brackets in them are no markup, colons no emoji.

    Args:
        stderr: Whether it prints where errors go.
        quiet: Whether it prints nothing.
    """
    return _Console(stderr=stderr, quiet=quiet, markup=False, emoji=False)


def open_progress(
    console: Console, *columns: ProgressColumn, description: bool = True, transient: bool = False
) -> Progress:
    """Returns progress bars whose descriptions are printed as they are.

    Args:
        console: Console to draw on.
        columns: Columns of each bar.
        description: Whether the first column is the description.
        transient: Whether they go at the end.
    """
    first = [TextColumn("{task.description}", markup=False)] if description else []
    return Progress(*first, *columns, console=console, transient=transient)


def say(console: Console, text: str) -> None:
    """Prints text as it is: unwrapped, so that paths can be copied, and without markup."""
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


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
