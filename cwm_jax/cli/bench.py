"""`cwm bench`: search curves and throughput on this machine, against Ansor's own model."""

import argparse
import dataclasses
import importlib.metadata
import math
import os
import platform
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cwm_jax.cli.common import add_json_option, positive, say, write_json
from cwm_jax.tvm_bridge.machine import cpu_model
from cwm_jax.tvm_bridge.workloads import create_task, parse_workload

_WORKLOADS = ("matmul:512,512,512", "conv2d:1,48,48,96,96,3,1,1", "conv2d:1,20,20,320,160,1,1,0")


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser("bench", help="measure search and throughput on this machine")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    search = kinds.add_parser(
        "search",
        help="latency found for a number of trials, by cost model",
        description="Runs searches in turn, each in a fresh process, then measures the winners "
        "again together. Finished searches in --out are not run again. Run nothing beside it.",
    )
    search.add_argument("--workloads", nargs="+", default=list(_WORKLOADS))
    search.add_argument("--cost-models", nargs="+", default=["world-model", "xgboost"])
    search.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    search.add_argument("--trials", nargs="+", type=positive, default=[16, 64])
    search.add_argument("--checkpoint", default="cpu-x86-2core")
    search.add_argument("--rounds", type=positive, default=5, help="final measurements (5)")
    search.add_argument("--out", type=Path, default=Path("runs/bench-search"))
    add_json_option(search)
    search.set_defaults(run=run_search_benchmark)
    throughput = kinds.add_parser(
        "throughput", help="candidates scored per second at Ansor's predict"
    )
    throughput.add_argument("--workload", default="conv2d:1,48,48,96,96,3,1,1")
    throughput.add_argument("--batches", nargs="+", type=positive, default=[64, 2048])
    throughput.add_argument("--repeats", type=positive, default=5)
    throughput.add_argument("--checkpoint", default="cpu-x86-2core")
    add_json_option(throughput)
    throughput.set_defaults(run=run_throughput_benchmark)


def run_search_benchmark(options: argparse.Namespace) -> int:
    """Runs the searches, measures the winners, prints the table."""
    from cwm_jax.tvm_bridge import search_benchmark as benchmark
    from cwm_jax.tvm_bridge.runtime import use
    from cwm_jax.tvm_bridge.targets import host_target

    for workload in options.workloads:
        parse_workload(workload)
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = benchmark.plan_runs(options.workloads, options.cost_models, options.seeds)
    rows: list[dict[str, Any]] = []
    winners = []
    with Progress(console=console) as progress:
        bar = progress.add_task("searching", total=len(runs))
        for run in runs:
            progress.update(bar, description=run.name)
            data = benchmark.run_search(run, max(options.trials), options.checkpoint, options.out)
            for trials in options.trials:
                winner = benchmark.winner_after(options.out / f"{run.name}.jsonl", trials)
                winners.append(winner)
                row = {**dataclasses.asdict(run), "trials": trials, "in_search": winner.latency}
                rows.append({**row, "seconds": data["seconds"]})
            progress.advance(bar)
        tvm = use("ansor")
        target = host_target(tvm)
        tasks = {}
        for workload in options.workloads:
            task = create_task(tvm, parse_workload(workload), target)
            tasks[task.workload_key] = task
        bar = progress.add_task("measuring the winners", total=options.rounds)
        latencies = benchmark.remeasure(
            tvm,
            lambda record: tasks[record.workload_key],
            winners,
            options.rounds,
            lambda number: progress.update(bar, completed=number),
        )
    for row, latency in zip(rows, latencies, strict=True):
        row["latency"] = latency
    comparisons = _compare(rows, options.cost_models)
    _print_search(console, comparisons)
    write_json(
        options.json,
        {"machine": describe_machine(), "target": str(target), "rows": rows, **comparisons},
    )
    return 0


def _compare(rows: list[dict[str, Any]], models: list[str]) -> dict[str, Any]:
    """Ratios of the last model's latency to each other's, pairs of one seed."""
    latency = {
        (row["workload"], row["trials"], row["seed"], row["cost_model"]): row["latency"]
        for row in rows
    }
    cases = sorted({key[:2] for key in latency})
    seeds = sorted({key[2] for key in latency})
    reference = models[-1]
    table: list[dict[str, Any]] = []
    for workload, trials in cases:
        row: dict[str, Any] = {"workload": workload, "trials": trials}
        for model in models:
            values = [latency[workload, trials, seed, model] for seed in seeds]
            ratios = [
                latency[workload, trials, seed, reference] / value
                for seed, value in zip(seeds, values, strict=True)
            ]
            row[model] = {
                "median_latency": statistics.median(values),
                "latencies": values,
                f"speedup_over_{reference}": ratios,
            }
        table.append(row)
    geomeans = {
        str(trials): {
            model: _geometric_mean(
                [
                    ratio
                    for row in table
                    if row["trials"] == trials
                    for ratio in row[model][f"speedup_over_{reference}"]
                ]
            )
            for model in models
        }
        for trials in sorted({trials for _, trials in cases})
    }
    return {"reference": reference, "table": table, "geomean_speedup": geomeans}


def _geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def _print_search(console: Console, comparisons: dict[str, Any]) -> None:
    reference = comparisons["reference"]
    models = [name for name in comparisons["table"][0] if name not in ("workload", "trials")]
    table = Table("workload", "trials", *(f"{name}, ms" for name in models), "speed-ups by seed")
    for row in comparisons["table"]:
        cells = [f"{row[name]['median_latency'] * 1e3:.3f}" for name in models]
        ratios = row[models[0]][f"speedup_over_{reference}"]
        shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
        table.add_row(row["workload"], str(row["trials"]), *cells, shown)
    console.print(table)
    for trials, means in comparisons["geomean_speedup"].items():
        text = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        say(console, f"{trials} trials, geometric mean speed-up over {reference}: {text}")


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


def describe_machine() -> dict[str, Any]:
    """What a figure must name: CPU, cores, system, versions."""
    names = ("jax", "flax", "numpy", "xgboost", "bitblas")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }
