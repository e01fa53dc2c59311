"""How much faster the log of a search is ranked where candidates that begin alike share rollouts.

    uv run python tools/share_rollouts.py LOG --checkpoint NAME --out FILE.json

Ranks the larger workloads of a log, from parsed records, with and without sharing, in turn.
"""

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from cwm_jax.cli.common import write_json
from cwm_jax.features.batch import group_schedules
from cwm_jax.ranking.scorer import BATCH_BUCKETS, Scorer
from cwm_jax.records.graph import shape_only_graph
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import iterate_records
from cwm_jax.tuning.machine import describe_machine


def main() -> None:
    """Reads, ranks both ways in turn, and writes the figures."""
    parser = argparse.ArgumentParser(description="Times ranking with and without shared rollouts.")
    parser.add_argument("log", type=Path)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--workloads", type=int, default=10, help="so many of the largest (10)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    schedules = defaultdict(list)
    for record in iterate_records(options.log, LogSummary()):
        schedules[record.workload_key].append(record.steps)
    largest = sorted(schedules, key=lambda key: -len(schedules[key]))[: options.workloads]
    scorer = Scorer.load(options.checkpoint)
    speedups: list[float] = []
    apart = 0.0
    for key in largest:
        graph = shape_only_graph(key)
        groups = group_schedules(schedules[key][: BATCH_BUCKETS[-1]])
        seconds: dict[bool, list[float]] = {False: [], True: []}
        scores: dict[bool, np.ndarray] = {}
        for repeat in range(options.repeats + 1):
            for sharing, taken in seconds.items():
                started = time.perf_counter()
                scores[sharing] = scorer.rank_groups(graph, groups, of_searches=sharing).score
                if repeat:
                    taken.append(time.perf_counter() - started)
        apart = max(apart, float(np.abs(scores[True] - scores[False]).max()))
        speedups.append(statistics.median(seconds[False]) / statistics.median(seconds[True]))
        print(f"{speedups[-1]:.2f}  {len(scores[True])} records of {key[:80]}")
    print(
        f"{statistics.median(speedups):.2f} times as fast (median; {min(speedups):.2f} to "
        f"{max(speedups):.2f}), encoding included; scores at most {apart:.1e} apart"
    )
    write_json(
        options.out,
        {
            "machine": describe_machine(),
            "log": options.log.name,
            "checkpoint": options.checkpoint,
            "speedup": speedups,
            "scores_apart": apart,
        },
    )


if __name__ == "__main__":
    main()
