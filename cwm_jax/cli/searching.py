"""What all searches share: where they live, how they show that they go on, how they end."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn

from cwm_jax.cli.common import checkpoint_of, lock_output, milliseconds, open_progress
from cwm_jax.errors import CwmError, RecordError
from cwm_jax.files import Output, check_outputs
from cwm_jax.interrupts import note_kept
from cwm_jax.tuning.registry import EngineDescription

if TYPE_CHECKING:
    from cwm_jax.ranking.scorer import Scorer


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
    console: Console, trials: int, place: Path, what: str, earlier: int = 0
) -> Iterator[Callable[[int, float], None]]:
    """Shows a bar while a search runs, and says how to go on if it is interrupted.

    Args:
        console: To draw on.
        trials: Candidates to measure in all.
        place: Log or folder of the search.
        what: Names the latency that is shown.
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
