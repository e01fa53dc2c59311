"""`cwm bench`: search and throughput on this machine, against the engine's own model."""

import argparse
import dataclasses
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cwm_jax.cli.bench_search import add_search_parser
from cwm_jax.cli.common import (
    LIKEST,
    add_json_option,
    checkpoint_of,
    open_console,
    positive,
    say,
    write_json,
)
from cwm_jax.files import Output, check_outputs
from cwm_jax.tuning.machine import describe_machine
from cwm_jax.workloads.parse import parse_workload

if TYPE_CHECKING:
    from cwm_jax.bench.throughput import Boundary
    from cwm_jax.ranking.scorer import Scorer

_BATCHES = {"ansor": [64, 2048, 10000], "metaschedule": [64, 512, 2048]}


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser("bench", help="measure search and throughput on this machine")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    add_search_parser(kinds)
    throughput = kinds.add_parser(
        "throughput", help="candidates scored per second where a search asks for scores"
    )
    throughput.add_argument("--workload", default="conv2d:1,48,48,96,96,3,1,1")
    throughput.add_argument("--engine", choices=list(_BATCHES), default="ansor", help="(ansor)")
    throughput.add_argument(
        "--batches", nargs="+", type=positive, help="(64 2048 10000; MetaSchedule 64 512 2048)"
    )
    throughput.add_argument("--repeats", type=positive, default=5)
    throughput.add_argument("--checkpoint", help=f"(default: {LIKEST})")
    add_json_option(throughput)
    throughput.set_defaults(run=run_throughput_benchmark)


def _boundary(engine: str) -> "Callable[[str, Scorer, int], Boundary]":
    """Returns the engine's part; a process holds one TVM."""
    if engine == "ansor":
        from cwm_jax.bench.ansor_throughput import ansor_boundary

        return ansor_boundary
    from cwm_jax.bench.metaschedule_throughput import metaschedule_boundary

    return metaschedule_boundary


def run_throughput_benchmark(options: argparse.Namespace) -> int:
    """Times both models and the start-up, prints the table."""
    from cwm_jax.bench import throughput as benchmark
    from cwm_jax.compilation import check_devices
    from cwm_jax.ranking.scorer import Scorer

    check_outputs(Output("--json", options.json))
    check_devices()
    parse_workload(options.workload)
    checkpoint = checkpoint_of(options)
    starts = benchmark.first_score_seconds(checkpoint, options.repeats)
    wanted = options.batches or _BATCHES[options.engine]
    scorer = Scorer.load(checkpoint)
    boundary = _boundary(options.engine)(options.workload, scorer, max(wanted))
    # A small search space has fewer candidates.
    batches = sorted({min(batch, len(boundary.schedules)) for batch in wanted})
    rates = benchmark.array_rates(boundary.graph, boundary.schedules, scorer, options.repeats)
    memory = benchmark.peak_memory_bytes()  # before the engine's features of the same states
    found = benchmark.measure_throughput(boundary.prepare, batches, options.repeats)
    asked = {batch: benchmark.distinct_beginnings(boundary.schedules[:batch]) for batch in batches}
    console = open_console()
    table = Table("batch", "world model, 1/s", "XGBoost with features, 1/s", "ratio")
    for row in found:
        shown = f"{row.world_model:,.0f}", f"{row.xgboost:,.0f}"
        table.add_row(str(row.batch), *shown, f"{row.ratio:.1f}")
    console.print(table)
    say(console, f"from arrays: {statistics.median(rates):,.0f} candidates/s")
    say(console, f"import to first score: {statistics.median(starts):.1f} s")
    say(console, f"peak memory: {memory / 2**20:,.0f} MiB")
    shares = ", ".join(f"{share:.1%} of {batch:,}" for batch, share in asked.items())
    say(console, f"steps that end a beginning of their own: {shares}")
    write_json(
        options.json,
        {
            "machine": describe_machine(),
            "engine": options.engine,
            "workload": options.workload,
            "checkpoint": checkpoint,
            "predict_speedup": {str(row.batch): row.ratio for row in found},
            "predict": [dataclasses.asdict(row) for row in found],
            "array_candidates_per_second": statistics.median(rates),
            "array_rates": rates,
            "first_score_seconds": statistics.median(starts),
            "first_scores": starts,
            "peak_memory_bytes": memory,
            "distinct_beginnings": {str(batch): share for batch, share in asked.items()},
        },
    )
    return 0
