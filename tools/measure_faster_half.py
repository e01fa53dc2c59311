"""How well the faster half of a search's programs can be told apart: by measuring, by a checkpoint.

    uv run python tools/measure_faster_half.py LOG --workload WORKLOAD --checkpoint NAME --out FILE

Measures some of them again, as `cwm bench search` measures winners, and prints Spearman's rank
correlations. What one measurement cannot tell of another, no model can. Run nothing beside it.
"""

import argparse
import itertools
import statistics
from pathlib import Path

import numpy as np

from cwm_jax.bench.best_candidates import measurer_of, remeasure, winner_of
from cwm_jax.ranking.metrics import rank_correlation
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import load_graphs
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.tuning.registry import find_engine
from cwm_jax.workloads.parse import parse_workload


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Measures fast programs of an Ansor log again.")
    parser.add_argument("log", type=Path)
    parser.add_argument("--workload", required=True, help="what was searched, as for cwm tune")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--programs", type=int, default=40, help="evenly over the half (40)")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each (2)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; goes on with them")
    options = parser.parse_args()
    records = load_records(options.log, summary=LogSummary(), valid_only=True)
    faster = sorted(records, key=lambda record: record.latency)[: len(records) // 2]
    some = faster[:: max(1, len(faster) // options.programs)][: options.programs]
    engine = find_engine("ansor").load(None, False)
    engine.tasks(parse_workload(options.workload))
    winners = [winner_of(engine, options.log, record) for record in some]
    found = remeasure(winners, measurer_of(engine, options.out), options.rounds, options.out)
    rounds = np.array(found).T
    searched = np.array([record.latency for record in some])
    program = load_graphs(options.log)[some[0].workload_key]
    schedules = [record.steps for record in some]
    scores = Scorer.load(options.checkpoint).rank_schedules(program, schedules).score
    again = [rank_correlation(-searched, each) for each in rounds]
    pairs = [rank_correlation(-one, other) for one, other in itertools.combinations(rounds, 2)]
    ours = options.checkpoint
    print(f"{len(some)} of the faster {len(faster)} programs, Spearman:")
    print(f"search, measured again      {statistics.mean(again):.3f}")
    print(f"measured again, once more   {statistics.mean(pairs):.3f}")
    print(f"search, {ours} {rank_correlation(scores, searched):.3f}")
    print(f"mean of the new ones, {ours} {rank_correlation(scores, rounds.mean(0)):.3f}")


if __name__ == "__main__":
    main()
