"""How far two measurements of one program differ, and the ceiling which that sets.

uv run cwm collect --out tools/corpus/cpu-x86-2core --remeasure 200
uv run python tools/measure_noise.py tools/corpus/cpu-x86-2core --json tools/results/noise.json
"""

import argparse
import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np

from cwm_jax.bench.repeated_measurements import QUANTILES, noise_ceiling, remeasured_ratios
from cwm_jax.cli.common import write_json
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.tuning.corpus import Corpus

_DRAWS = 20


def main() -> None:
    """Prints the distribution and the ceiling."""
    parser = argparse.ArgumentParser(description="Measurement noise of a corpus.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    corpus = Corpus(options.corpus)
    records = load_records(corpus.records, summary=LogSummary(), valid_only=True)
    again = load_records(corpus.remeasured, summary=LogSummary(), valid_only=True)
    ratios = remeasured_ratios(records, again)
    apart = np.abs(np.log(ratios / np.median(ratios)))
    latencies: dict[str, list[float]] = defaultdict(list)
    for record in records:
        latencies[record.workload_key].append(record.latency)
    several = {key: np.array(values) for key, values in latencies.items() if len(values) > 1}
    ceiling = noise_ceiling(several, ratios, draws=_DRAWS, seed=0)
    quantiles = {str(q): float(np.quantile(ratios, q)) for q in QUANTILES}
    distance = {str(q): float(np.expm1(np.quantile(apart, q))) for q in QUANTILES}
    print(f"{len(ratios)} programs measured twice")
    print("second / first, quantiles: " + ", ".join(f"{q} {v:.3f}" for q, v in quantiles.items()))
    print("distance without drift:    " + ", ".join(f"{q} {v:.3f}" for q, v in distance.items()))
    print(
        f"an oracle that measures once more: top-1 {ceiling.top1:.3f}, top-5 {ceiling.top5:.3f}, "
        f"pairwise {ceiling.pairwise:.3f}, Spearman {ceiling.spearman:.3f}"
    )
    write_json(
        options.json,
        {
            "programs": len(ratios),
            "ratio_quantiles": quantiles,
            "distance_quantiles": distance,
            "ceiling": dataclasses.asdict(ceiling),
        },
    )


if __name__ == "__main__":
    main()
