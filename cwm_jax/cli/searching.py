"""What all searches share: where they live, how they show that they go on, how they end."""

import argparse
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn

from cwm_jax.cli.common import checkpoint_of, lock_output, milliseconds, open_progress
from cwm_jax.errors import CwmError, RecordError
from cwm_jax.files import Output, check_outputs
from cwm_jax.interrupts import note_kept
from cwm_jax.records.metaschedule.database import RECORDS_FILE, WORKLOADS_FILE
from cwm_jax.search.confirmation import default_confirmations
from cwm_jax.tuning.tracker import parse_tracker

if TYPE_CHECKING:
    from cwm_jax.ranking.scorer import Scorer


def load_scorer(options: argparse.Namespace) -> "Scorer | None":
    """Loads the world model, if that is the cost model."""
    if options.cost_model != "world-model":
        return None
    from cwm_jax.ranking.scorer import Scorer

    return Scorer.load(checkpoint_of(options), options.hardware)


def confirmations(options: argparse.Namespace, tasks: int) -> int:
    """Returns how many trials measure the best programs of so many tasks again."""
    if options.confirm is None:
        return default_confirmations(options.trials, tasks)
    return options.confirm


def shared_settings(options: argparse.Namespace, tasks: int) -> dict[str, Any]:
    """Returns the arguments of `SearchSettings` that the options give, for so many tasks.

    Raises:
        TargetError: `--rpc` names no tracker.
    """
    return {
        "trials": options.trials,
        "round_size": options.round,
        "seed": options.seed,
        "search": options.search,
        "adaptation": options.adaptation,
        "confirm": confirmations(options, tasks),
        "reference_every": options.reference_every,
        "pretrain": options.pretrain,
        "tracker": parse_tracker(options.rpc) if options.rpc else None,
        **({"population": options.population} if options.population else {}),
    }


def log_path(options: argparse.Namespace, what: str) -> Path:
    """Returns the log to write or to go on with; a new one is named after `what` is tuned.

    It is locked until the command ends.

    Raises:
        CwmError: The options contradict each other, the log is there or missing, an output cannot
            be written, or another process writes the log.
    """
    if options.resume and not options.log and not options.resume.is_file():
        raise RecordError(f"{options.resume}: no such log")
    return _reserved(options, _new_path(options, what).with_suffix(".jsonl"), folder=False)


def search_folder(options: argparse.Namespace, what: str) -> Path:
    """Returns the folder to write or to go on with, as `log_path` does.

    Raises:
        CwmError: As `log_path` does.
    """
    if options.resume and not options.log and not options.resume.is_dir():
        raise RecordError(f"{options.resume}: no such folder of a search")
    return _reserved(options, _new_path(options, what), folder=True)


def _reserved(options: argparse.Namespace, new: Path, *, folder: bool) -> Path:
    """Returns the log or folder of the search, which no other process may write until the end."""
    if options.resume and options.log:
        raise CwmError("--log and --resume name the same thing; --resume alone goes on with it")
    path = options.resume or options.log or new
    check_outputs(
        Output("--resume" if options.resume else "--log", path, folder),
        Output("--json", options.json),
        Output("--export", options.export),
    )
    if path.is_file() and not os.access(path, os.W_OK):
        raise CwmError(f"{path}: cannot be written (Permission denied)")
    taken = _holds_trials(path) if path.is_dir() else path.exists()
    lock_output(options, path, folder=folder)
    if options.log and taken:
        raise CwmError(f"{path} exists; go on with it by --resume, or name another")
    return path


def _holds_trials(folder: Path) -> bool:
    """Whether a folder holds more than a search that was stopped before its first round leaves."""
    begun = {WORKLOADS_FILE, RECORDS_FILE, "records.programs.jsonl"}
    return any(
        file.name not in begun or (file.name == RECORDS_FILE and file.stat().st_size)
        for file in folder.iterdir()
    )


def _new_path(options: argparse.Namespace, what: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9]+", "-", what).strip("-")[:60]
    return Path("runs") / f"{name}-{options.cost_model}-{time.strftime('%Y%m%d-%H%M%S')}"


@contextmanager
def shown_search(
    console: Console, trials: int, place: Path, what: str, earlier: int = 0
) -> Iterator[Callable[[int, float], None]]:
    """Shows a bar while a search runs, and says how to go on if it is interrupted.

    Args:
        console: To draw on.
        trials: Candidates to measure in all.
        place: Log or folder of the search.
        what: The latency that is told.
        earlier: Candidates that are measured already.

    Yields:
        A function that takes the candidates measured so far, and a latency in seconds.
    """
    with (
        note_kept(partial(_how_to_go_on, place)),
        open_progress(console, BarColumn(), MofNCompleteColumn()) as progress,
    ):
        bar = progress.add_task("searching", total=trials, completed=earlier)

        def report(done: int, latency: float) -> None:
            progress.update(bar, completed=done, description=f"{what} {milliseconds(latency)}")

        yield report


def _how_to_go_on(place: Path) -> str:
    """Says of a search that is interrupted what is kept."""
    if place.is_file() or (place / "records.jsonl").exists():
        return f"finished rounds are in {place}, go on with --resume {place}"
    return "no round was measured yet"
