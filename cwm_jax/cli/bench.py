"""`cwm bench`: search and throughput on this machine, against the engine's own model."""

import argparse
import statistics
from typing import Any

from rich.table import Table

from cwm_jax.cli.bench_search import add_search_parser
from cwm_jax.cli.common import (
    ENGINE_HELP,
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
from cwm_jax.tuning.registry import find_engine
from cwm_jax.workloads.parse import parse_workload


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser("bench", help="measure search and throughput on this machine")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    add_search_parser(kinds)
    throughput = kinds.add_parser(
        "throughput", help="candidates scored per second where a search asks for scores"
    )
    throughput.add_argument("--workload", default="conv2d:1,48,48,96,96,3,1,1")
    throughput.add_argument("--engine", default="ansor", help=ENGINE_HELP)
    throughput.add_argument(
        "--batches", nargs="+", type=positive, help="(64 2048 10000; MetaSchedule 64 512 2048)"
    )
    throughput.add_argument("--repeats", type=positive, default=5)
    throughput.add_argument("--checkpoint", help=f"(default: {LIKEST})")
    add_json_option(throughput)
    throughput.set_defaults(run=run_throughput_benchmark)


def run_throughput_benchmark(options: argparse.Namespace) -> int:
    """Times both models and the start-up, prints the table."""
    from cwm_jax.bench import throughput as benchmark
    from cwm_jax.compilation import check_devices
    from cwm_jax.ranking.scorer import Scorer

    check_outputs(Output("--json", options.json))
    check_devices()
    workload = parse_workload(options.workload)
    engine = find_engine(options.engine)
    checkpoint = checkpoint_of(options)
    starts = benchmark.first_score_seconds(checkpoint, options.repeats)
    wanted = options.batches or engine.scoring_batches
    scorer = Scorer.load(checkpoint)
    loaded = engine.load(None, False)
    (task,) = loaded.tasks(workload)
    calls = loaded.scoring_calls(task, scorer, max(wanted))
    # A small search space has fewer candidates.
    batches = sorted({min(batch, len(calls.schedules)) for batch in wanted})
    rates = benchmark.array_rates(calls.graph, calls.schedules, scorer, options.repeats)
    memory = benchmark.peak_memory_bytes()  # before the engine's features of the same states
    found = benchmark.measure_throughput(calls.prepare, batches, options.repeats)
    asked = {batch: benchmark.distinct_beginnings(calls.schedules[:batch]) for batch in batches}
    console = open_console()
    table = Table("batch", "world model, 1/s", f"{engine.rival} with features, 1/s", "ratio")
    for row in found:
        shown = f"{row.world_model:,.0f}", f"{row.rival:,.0f}"
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
            "predict": [
                {
                    "batch": row.batch,
                    "world_model": row.world_model,
                    engine.rival: row.rival,
                    "ratio": row.ratio,
                }
                for row in found
            ],
            "array_candidates_per_second": statistics.median(rates),
            "array_rates": rates,
            "first_score_seconds": statistics.median(starts),
            "first_scores": starts,
            "peak_memory_bytes": memory,
            "distinct_beginnings": {str(batch): share for batch, share in asked.items()},
        },
    )
    return 0
