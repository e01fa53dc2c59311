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
    throughput.add_argument("--batches", nargs="+", type=positive, default=[64, 2048, 10000])
    throughput.add_argument("--repeats", type=positive, default=5)
    throughput.add_argument("--checkpoint", default="cpu-x86-2core")
    add_json_option(throughput)
    throughput.set_defaults(run=run_throughput_benchmark)


def run_throughput_benchmark(options: argparse.Namespace) -> int:
    """Times both models and the start-up, prints the table."""
    from cwm_jax.ranking.scorer import Scorer
    from cwm_jax.tvm_bridge import throughput_benchmark as benchmark
    from cwm_jax.tvm_bridge.ansor import schedules_of_states
    from cwm_jax.tvm_bridge.programs import program_of_task
    from cwm_jax.tvm_bridge.runtime import use
    from cwm_jax.tvm_bridge.targets import host_target

    workload = parse_workload(options.workload)
    starts = benchmark.first_score_seconds(options.checkpoint, options.repeats)
    tvm = use("ansor")
    task = create_task(tvm, workload, host_target(tvm))
    scorer = Scorer.load(options.checkpoint)
    states = benchmark.sample_states(tvm, task, max(options.batches))
    schedules = schedules_of_states(task, states)
    rates = benchmark.array_rates(program_of_task(tvm, task), schedules, scorer, options.repeats)
    memory = benchmark.peak_memory_bytes()  # before Ansor's features of the same states
    found = benchmark.measure_throughput(
        tvm, task, states, scorer, options.batches, options.repeats
    )
    console = Console()
    table = Table("batch", "world model, 1/s", "XGBoost with features, 1/s", "ratio")
    for row in found:
        shown = f"{row.world_model:,.0f}", f"{row.xgboost:,.0f}"
        table.add_row(str(row.batch), *shown, f"{row.ratio:.1f}")
    console.print(table)
    say(console, f"from arrays: {statistics.median(rates):,.0f} candidates/s")
    say(console, f"import to first score: {statistics.median(starts):.1f} s")
    say(console, f"peak memory: {memory / 2**20:,.0f} MiB")
    write_json(
        options.json,
        {
            "machine": describe_machine(),
            "workload": options.workload,
            "predict_speedup": {str(row.batch): row.ratio for row in found},
            "predict": [dataclasses.asdict(row) for row in found],
            "array_candidates_per_second": statistics.median(rates),
            "array_rates": rates,
            "first_score_seconds": statistics.median(starts),
            "first_scores": starts,
            "peak_memory_bytes": memory,
        },
    )
    return 0
