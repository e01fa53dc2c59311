"""`cwm bench`: search and throughput on this machine, against Ansor's own model."""

import argparse
import dataclasses
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from cwm_jax.cli.bench_search import add_search_parser
from cwm_jax.cli.common import add_json_option, positive, say, write_json
from cwm_jax.tvm_bridge.machine import describe_machine
from cwm_jax.tvm_bridge.workloads import create_task, parse_workload


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser("bench", help="measure search and throughput on this machine")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    add_search_parser(kinds)
    throughput = kinds.add_parser(
        "throughput", help="candidates scored per second at Ansor's predict"
    )
    throughput.add_argument("--workload", default="conv2d:1,48,48,96,96,3,1,1")
    throughput.add_argument("--batches", nargs="+", type=positive, default=[64, 2048])
    throughput.add_argument("--repeats", type=positive, default=5)
    throughput.add_argument("--checkpoint", default="cpu-x86-2core")
    add_json_option(throughput)
    throughput.set_defaults(run=run_throughput_benchmark)


def run_throughput_benchmark(options: argparse.Namespace) -> int:
    """Times both models and the start-up, prints the table."""
    from cwm_jax.ranking.scorer import Scorer
    from cwm_jax.tvm_bridge.runtime import use
    from cwm_jax.tvm_bridge.targets import host_target
    from cwm_jax.tvm_bridge.throughput_benchmark import first_score_seconds, measure_throughput

    workload = parse_workload(options.workload)
    starts = first_score_seconds(options.checkpoint, options.repeats)
    tvm = use("ansor")
    task = create_task(tvm, workload, host_target(tvm))
    scorer = Scorer.load(options.checkpoint)
    found = measure_throughput(tvm, task, scorer, options.batches, options.repeats)
    console = Console()
    table = Table("batch", "world model, 1/s", "XGBoost with features, 1/s", "ratio")
    for row in found:
        rates = f"{row.world_model:,.0f}", f"{row.xgboost:,.0f}"
        table.add_row(str(row.batch), *rates, f"{row.ratio:.1f}")
    console.print(table)
    say(console, f"import to first score: {statistics.median(starts):.1f} s")
    write_json(
        options.json,
        {
            "machine": describe_machine(),
            "workload": options.workload,
            "predict": [dataclasses.asdict(row) for row in found],
            "first_score_seconds": starts,
        },
    )
    return 0
