"""Prints the table of finished searches: the folder that `cwm bench search --out` fills.

uv run python tools/summarise_searches.py tools/results/tune
"""

import argparse
import json
import math
from pathlib import Path

MODELS = ("world-model", "xgboost")


def main() -> None:
    """Prints a row for each workload and seed that both models have finished."""
    parser = argparse.ArgumentParser(description="Prints the table of finished searches.")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    runs = [json.loads(path.read_bytes()) for path in sorted(options.folder.glob("*.json"))]
    by_case = {(run["workload"], run["seed"], run["cost_model"]): run for run in runs}
    ratios: list[tuple[float, float, float]] = []
    for workload, seed in sorted({case[:2] for case in by_case}):
        pair = [by_case.get((workload, seed, model)) for model in MODELS]
        if None in pair:
            continue
        ours, theirs = (_figures(run) for run in pair if run is not None)
        ratios.append((theirs[0] / ours[0], theirs[1] / ours[1], theirs[2] / ours[2]))
        cells = [f"{a:.3f} / {b:.3f} ms" for a, b, _ in (ours, theirs)]
        seconds = f"{ours[2]:.0f} / {theirs[2]:.0f}"
        shown = " | ".join(f"{ratio:.2f}" for ratio in ratios[-1][:2])
        print(f"| `{workload}` | {seed} | {' | '.join(cells)} | {shown} | {seconds} |")
    means = [math.exp(sum(map(math.log, column)) / len(ratios)) for column in zip(*ratios)]  # noqa: B905
    print(f"{len(ratios)} pairs; geometric means at 16, at 64 trials, of seconds: ", end="")
    print(", ".join(f"{mean:.2f}" for mean in means))


def _figures(run: dict) -> tuple[float, float, float]:
    """Best of 16 and of all trials in ms, and seconds in search and model."""
    latencies = [math.inf if x is None else x * 1e3 for x in run["latencies"]]
    return min(latencies[:16]), min(latencies), run["seconds"]["search"] + run["seconds"]["model"]


if __name__ == "__main__":
    main()
