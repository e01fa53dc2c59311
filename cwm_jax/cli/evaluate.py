"""`cwm eval`: how well a checkpoint ranks recorded candidates."""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from cwm_jax.cli.common import (
    RECORDS_HELP,
    add_checkpoint_options,
    add_json_option,
    graphs_of_logs,
    occurrences_beside,
    open_console,
    output_path,
    say,
    write_json,
)
from cwm_jax.cli.training_data import trained_on
from cwm_jax.errors import RecordError
from cwm_jax.files import Output, check_outputs
from cwm_jax.ranking.metrics import RankingMetrics, mean_metrics, rank_metrics
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records

_RANDOM_DRAWS = 200
_NAME_WIDTH = 15


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "eval",
        help="ranking quality of a checkpoint on recorded candidates",
        description="Compares a checkpoint's scores with measured latencies, per workload and "
        "overall, beside random ranking. Workloads that the checkpoint was trained or stopped "
        "on are left out.",
    )
    parser.add_argument("records", nargs="+", type=Path, help=RECORDS_HELP)
    add_checkpoint_options(parser, "cpu-x86-2core")
    parser.add_argument(
        "--graphs", "--programs", nargs="*", type=Path, default=[], help="compute graphs"
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        metavar="NETWORK",
        help="rank workloads of these networks only (of a corpus that cwm collect wrote)",
    )
    parser.add_argument(
        "--include-training",
        action="store_true",
        help="also rank workloads that the checkpoint was trained on",
    )
    parser.add_argument(
        "--report",
        type=output_path("--report"),
        metavar="DIR",
        help="also draw a report (Markdown and plots)",
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints and writes the table."""
    from cwm_jax.features.hardware import load_hardware
    from cwm_jax.model.checkpoint import find_checkpoint, load_checkpoint
    from cwm_jax.ranking.catalog import warn_of_missing_graph, warn_of_records
    from cwm_jax.ranking.scorer import Scorer
    from cwm_jax.training.dataset import build_dataset

    console = open_console()
    check_outputs(
        Output("--report", options.report, folder=True),
        Output("--json", options.json),
        inputs=options.records,
    )
    loaded = load_checkpoint(find_checkpoint(options.checkpoint))
    hardware = load_hardware(options.hardware) if options.hardware else loaded.hardware
    summary = LogSummary()
    graphs = graphs_of_logs(options.records, options.graphs)
    records = load_records(*options.records, summary=summary, valid_only=True, graphs=graphs)
    say(console, f"read {summary}")
    warn_of_records(hardware, loaded.card.get("engines", ("ansor",)), records)
    dataset = build_dataset(records, graphs, hardware)
    own = {name: workload.key for name, workload in dataset.items()}
    if not graphs.keys() >= {*own.values()}:
        warn_of_missing_graph()
    seen = set() if options.include_training else trained_on(loaded.card, [*own.values()])
    names = [name for name, key in own.items() if key not in seen]
    if options.networks:
        from cwm_jax.training.dataset import split_by_network

        found = {k: n for log in options.records for k, n in occurrences_beside(log).items()}
        chosen = {*split_by_network(found, options.networks).test_keys}
        names = [name for name in names if own[name] in chosen]
        if not names:
            shown = ", ".join(options.networks)
            raise RecordError(f"--networks: no workload to be ranked is of {shown}")
    if not names:
        raise RecordError(
            f"{options.checkpoint} was trained on all {len(dataset)} workloads of these logs; "
            "--include-training ranks them all the same"
        )
    scorer = Scorer(loaded.model, hardware)
    rng = np.random.default_rng(0)
    per_workload: dict[str, RankingMetrics] = {}
    random_ranking: list[RankingMetrics] = []
    for name in names:
        workload = dataset[name]
        scores = scorer.rank_arrays(workload.graph, workload.steps).score
        per_workload[name] = rank_metrics(scores, workload.latencies)
        random_ranking.append(_random_metrics(workload.latencies, rng))
    overall = mean_metrics(list(per_workload.values()))
    chance = mean_metrics(random_ranking)
    # Workloads of several devices are named by them, too.
    devices = {name: name[len(own[name]) :] for name in names}
    by_device = {
        device: mean_metrics([per_workload[name] for name in names if devices[name] == device])
        for device in dict.fromkeys(devices.values())
    }
    rows = {_shortened(own[name]) + devices[name]: per_workload[name] for name in names}
    if len(by_device) > 1:
        rows |= {f"all{device or ' others'}": means for device, means in by_device.items()}
    _print_table(console, rows, overall, chance)
    say(console, f"{len(names)} of {len(dataset)} workloads ranked, unweighted means over them")
    if options.report:
        from cwm_jax.evaluation.report import write_report

        title = f"How {options.checkpoint} ranks recorded candidates"
        judged = {name: dataset[name] for name in names}
        report = write_report(options.report, loaded.model, judged, graphs, title)
        say(console, f"wrote {report}")
    write_json(
        options.json,
        {
            "checkpoint": options.checkpoint,
            "workloads": {key: dataclasses.asdict(m) for key, m in per_workload.items()},
            "overall": dataclasses.asdict(overall),
            "devices": {name: dataclasses.asdict(m) for name, m in by_device.items()},
            "random": dataclasses.asdict(chance),
            "left_out": len(dataset) - len(names),
        },
    )
    return 0


def _random_metrics(latencies: np.ndarray, rng: np.random.Generator) -> RankingMetrics:
    draws = [rank_metrics(rng.random(len(latencies)), latencies) for _ in range(_RANDOM_DRAWS)]
    return dataclasses.replace(mean_metrics(draws), candidates=len(latencies))


def _shortened(key: str) -> str:
    return key if len(key) < 64 else key[:61] + "..."


def _print_table(
    console: Console,
    rows: dict[str, RankingMetrics],
    overall: RankingMetrics,
    chance: RankingMetrics,
) -> None:
    measures = ("top-1", "top-5", "pairwise", "Spearman", "faster\nhalf")
    table = Table(Column("workload", min_width=_NAME_WIDTH), "candidates", *measures)
    for name, metrics in rows.items():
        table.add_row(name, *_cells(metrics))
    table.add_section()
    table.add_row("all", *_cells(overall), style="bold")
    table.add_row("random ranking", *_cells(chance))
    console.print(table)


def _cells(metrics: RankingMetrics) -> list[str]:
    count, *values = dataclasses.astuple(metrics)
    return [str(count), *("-" if math.isnan(value) else f"{value:.3f}" for value in values)]
