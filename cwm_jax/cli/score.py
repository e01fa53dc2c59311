"""`cwm score`: record logs in, one score a record out."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from cwm_jax.cli.common import (
    RECORDS_HELP,
    add_checkpoint_options,
    add_json_option,
    graphs_of_logs,
    lock_output,
    open_console,
    open_progress,
    output_path,
    positive,
    say,
    write_json,
)
from cwm_jax.files import Output, check_outputs
from cwm_jax.interrupts import note_kept
from cwm_jax.records.graph import graphs_beside
from cwm_jax.records.lines import LogSummary


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "score",
        help="score recorded candidates",
        description="Writes workload key and score of each record, in order. Higher is faster; "
        "scores are comparable within a workload. Any number of records: they are streamed, and "
        "a run that was stopped goes on when the same command is given again.",
    )
    parser.add_argument("records", nargs="+", type=Path, help=RECORDS_HELP)
    parser.add_argument(
        "--out",
        required=True,
        type=output_path("--out"),
        help="file to write: FILE.parquet, or else JSON lines",
    )
    add_checkpoint_options(parser, "cpu-x86-2core")
    parser.add_argument(
        "--graphs", "--programs", nargs="*", type=Path, default=[], help="compute graphs"
    )
    parser.add_argument(
        "--ray",
        type=positive,
        metavar="ACTORS",
        help="share the lines out to so many processes of a Ray cluster (RAY_ADDRESS); --out is "
        "then a folder of Parquet files",
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Streams records through the scorer."""
    from cwm_jax.ranking.bulk import parts_of, score_logs
    from cwm_jax.ranking.scorer import Scorer

    check_outputs(
        Output("--out", options.out, folder=bool(options.ray)),
        Output("--json", options.json),
        inputs=options.records,
    )
    parts = parts_of(options.out)
    lock_output(options, options.out if options.ray else parts, folder=True)
    console = open_console(stderr=True)
    if options.ray:
        from cwm_jax.ranking.bulk import score_with_ray

        beside = [found for log in options.records if (found := graphs_beside(log))]
        summary = score_with_ray(
            options.records,
            options.out,
            checkpoint=options.checkpoint,
            hardware=options.hardware,
            graphs=[*beside, *options.graphs],
            actors=options.ray,
        )
        return _report(options, console, summary)
    scorer = Scorer.load(options.checkpoint, options.hardware)
    graphs = graphs_of_logs(options.records, options.graphs)
    named = ":".join(filter(None, (options.checkpoint, options.hardware)))
    columns = (SpinnerColumn(), TextColumn("{task.completed} scored"), TimeElapsedColumn())
    bars = open_progress(console, *columns, description=False, transient=True)
    going_on = "what is scored is kept, the same command goes on"
    with note_kept(lambda: going_on if any(parts.iterdir()) else ""), bars as progress:
        bar = progress.add_task("", total=None)
        summary = score_logs(
            scorer,
            options.records,
            graphs,
            options.out,
            checkpoint=named,
            report=lambda count: progress.update(bar, completed=count),
        )
    return _report(options, console, summary)


def _report(options: argparse.Namespace, console: Console, summary: LogSummary) -> int:
    say(console, f"{summary}\nwrote {options.out}")
    write_json(options.json, {"scored": summary.records, "skipped": summary.skipped})
    return 0
