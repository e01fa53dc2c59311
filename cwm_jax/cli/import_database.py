"""`cwm import`: a MetaSchedule database as a log, with its compute graphs beside it."""

import argparse
import gzip
from pathlib import Path
from typing import Any

from cwm_jax.cli.common import add_json_option, open_console, output_path, say, write_json
from cwm_jax.errors import CwmError, OutputError, RecordError, TvmError
from cwm_jax.files import Output, check_outputs
from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.graph import ComputeGraph, graphs_path, load_graphs, write_graphs
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.metaschedule.database import database_files, iterate_database


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "import",
        help="a MetaSchedule database as a log, with its compute graphs",
        description="Turns the database that MetaSchedule keeps in its work_dir "
        "(database_workload.json and database_tuning_record.json) into a log, and writes the "
        "compute graphs of its workloads beside it, which need a TVM that has MetaSchedule. Then "
        "eval, score and train read the log, with its graphs, on machines without TVM.",
    )
    parser.add_argument("database", type=Path, help="folder of the database")
    parser.add_argument(
        "--out",
        required=True,
        type=output_path("--out"),
        metavar="LOG",
        help="log to write, LOG.jsonl or LOG.jsonl.gz",
    )
    parser.add_argument("--target", help="TVM target of records that do not say theirs")
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Converts, and says what was skipped."""
    out, beside = options.out, graphs_path(options.out)
    for path in (out, beside, beside.with_name(f"{beside.name}.gz")):
        if path.exists():
            raise CwmError(f"--out {out}: {path} exists; name another log")
    check_outputs(Output("--out", out), Output("--json", options.json))
    if not options.database.is_dir():
        raise RecordError(f"{options.database}: no such folder of a MetaSchedule database")
    database_files(options.database)
    console = open_console(stderr=True)
    summary = LogSummary()
    graphs = load_graphs(options.database)
    try:
        graphs |= _graphs_by_tvm(options.database, summary)
    except TvmError as error:
        say(console, f"no TVM can read the compute graphs, {len(graphs)} are known ({error})")
    untold = _write_log(options.database, out, graphs, summary, options.target or "")
    if graphs:
        write_graphs(graphs.values(), beside)
    if untold and not options.target:
        say(
            console,
            f"{untold} records do not say their target: eval, score and train take them for their "
            "checkpoint's or card's device; name it by --target",
        )
    say(console, f"{len(graphs)} compute graphs; {summary}\nwrote {out}")
    write_json(
        options.json,
        {
            "log": str(out),
            "programs": len(graphs),
            "records": summary.records,
            "valid": summary.valid,
            "skipped": summary.skipped,
            "without_target": untold,
        },
    )
    return 0


def _graphs_by_tvm(folder: Path, summary: LogSummary) -> dict[str, ComputeGraph]:
    """Reads the compute graphs of a database by TVM."""
    from cwm_jax.tvm_bridge.metaschedule.graphs import graphs_of_database
    from cwm_jax.tvm_bridge.runtime import use

    tvm = use("metaschedule")
    found = graphs_of_database(tvm, folder, summary)
    return {graph.workload_key: graph for graph in found}


def _write_log(
    folder: Path, out: Path, graphs: dict[str, ComputeGraph], summary: LogSummary, target: str
) -> int:
    """Writes the records as they are read; returns how many do not say their target.

    Raises:
        OutputError: The log cannot be written.
        RecordError: None can be read.
    """
    untold = 0
    unfinished = out.with_name(f".{out.name}-unfinished")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        opened = gzip.open if out.suffix == ".gz" else open
        with opened(unfinished, "wt", encoding="utf-8") as file:
            for record in iterate_database(folder, graphs, summary, target=target):
                untold += not record.target
                file.write(f"{format_line(record)}\n")
        unfinished.replace(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error})") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return untold
