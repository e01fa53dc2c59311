"""Draws the plots of the documents and prints the table of README and of the results page.

    uv run python tools/plot_searches.py docs/images

Reads what `cwm bench search --json` and `tools/rank_models.py` wrote to tools/results. Each picture
is written twice, for a light and for a dark page (`-dark`). A search curve is a geometric mean over
workloads and seeds: how fast the best program measured so far is, relative to what the rival's
search has after its last trial. The band is the 95 % interval of a bootstrap over workloads.
"""

import argparse
import dataclasses
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cwm_jax.bench.search_summary import (
    Found,
    compare,
    geometric_interval,
    geometric_mean,
    pace,
)

RESULTS = Path(__file__).parent / "results"
FIRST, LAST = 16, 64


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """One file of results, and what the documents call it.

    Attributes:
        file: In tools/results, without its ending.
        name: Tuner and machine.
        rivals: Names of the other variants, the one that curves are relative to first.
        curves: Whether the picture of search curves has a panel for it.
        workloads: Whether its workloads have a picture of their own.
    """

    file: str
    name: str
    rivals: Mapping[str, str]
    curves: bool = False
    workloads: bool = True


COMPARISONS = (
    Comparison("search", "Ansor, AMD Zen 5", {"xgboost": "XGBoost"}, curves=True),
    Comparison("search-emr", "Ansor, Intel Emerald Rapids, 1 seed", {"xgboost": "XGBoost"}),
    Comparison(
        "search-pretrained",
        "Ansor, AMD Zen 5, 4 workloads, 1 seed",
        {"xgboost-pretrained": "XGBoost, pretrained"},
        workloads=False,
    ),
    Comparison(
        "metaschedule",
        "MetaSchedule, AMD Zen 5",
        {"xgboost": "XGBModel", "mlp": "MLPModel, pretrained"},
        curves=True,
    ),
)


RANKED = {"cpu-x86-2core": "Intel CPU", "cuda-v100": "NVIDIA V100", "cuda-k80": "NVIDIA K80"}
RANKERS = {
    "world-model": "world model",
    "ablation-bag": "without its rollout",
    "tenset-mlp": "TenSet's MLP",
    "tlp": "TLP",
    "xgboost": "Ansor's XGBoost",
    "random": "random",
}


class Ink(NamedTuple):
    """Colours on one kind of page; the page itself is the background."""

    background: str
    text: str
    grid: str
    variants: Mapping[str, str]


LIGHT = Ink(
    "#ffffff",
    "#24292f",
    "#d8dee4",
    {"world-model": "#c2334d", "xgboost": "#2f6690", "mlp": "#7a6f9b"},
)
DARK = Ink(
    "#0d1117",
    "#e6edf3",
    "#30363d",
    {"world-model": "#ff7b8a", "xgboost": "#79b8ff", "mlp": "#c3b1f5"},
)


def main() -> None:
    """Draws all pictures and prints the table."""
    parser = argparse.ArgumentParser(description="Draws the pictures of the documents.")
    parser.add_argument("out", type=Path, help="folder of the pictures")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    data = {c.file: orjson.loads((RESULTS / f"{c.file}.json").read_bytes()) for c in COMPARISONS}
    print("\n".join(table(data)))
    ranking = orjson.loads((RESULTS / "ranking.json").read_bytes())
    curves = {c: mean_curves(data[c.file], c) for c in COMPARISONS if c.curves}
    for ink, suffix in ((LIGHT, ""), (DARK, "-dark")):
        draw_curves(curves, ink, folder / f"search-curves{suffix}.svg")
        draw_ranking(ranking, ink, folder / f"ranking{suffix}.svg")
        for comparison in COMPARISONS:
            if comparison.workloads:
                name = f"{comparison.file}-workloads{suffix}.svg"
                draw_workloads(data[comparison.file], comparison, ink, folder / name)


def table(data: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One Markdown row for each rival: speed-ups, worst workload, ratio of tuning times."""
    lines = [
        f"| tuner, machine | rival | {FIRST} trials | {LAST} trials (95 %) | worst workload "
        "| tuning time, rival over ours |",
        "|---|---|---|---|---|---|",
    ]
    for comparison in COMPARISONS:
        results = data[comparison.file]
        for variant, name in comparison.rivals.items():
            early = compare(_found(results), "world-model", variant, FIRST)
            late = compare(_found(results), "world-model", variant, LAST)
            low, high = late["interval"]
            times = pace(_finished(results), "world-model", variant).times_as_long
            lines.append(
                f"| {comparison.name} | {name} | {early['geomean']:.2f} "
                f"| **{late['geomean']:.2f}** ({low:.2f} to {high:.2f}) | {late['worst']:.2f} "
                f"| {statistics.median(times):.2f} |"
            )
    return lines


def _found(results: Mapping[str, Any]) -> list[Found]:
    return [
        Found(r["workload"], r["variant"], r["seed"], r["trials"], r["latency"], math.nan)
        for r in results["rows"]
        if r["latency"] is not None
    ]


def _finished(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [curve for curve in results["curves"] if curve["trials"] == LAST]


Points = list[tuple[float, float, float]]


def mean_curves(results: Mapping[str, Any], comparison: Comparison) -> dict[str, Points]:
    """The curve of each variant, relative to the comparison's first rival."""
    first, *_ = comparison.rivals
    variants = ("world-model", *comparison.rivals)
    return {variant: speed_so_far(_finished(results), variant, first) for variant in variants}


def speed_so_far(curves: Sequence[Mapping[str, Any]], variant: str, rival: str) -> Points:
    """Speed relative to the rival's last latency after each trial, with its interval.

    Args:
        curves: `workload`, `seed`, `variant` and `best` (seconds after each trial, None before
            the first program that ran) of each search.
        variant: Whose searches.
        rival: Whose last latency is 1, pair by pair.

    Returns:
        Geometric mean, lower and upper bound for each trial; NaN before all searches have a
        program.
    """
    last = {(c["workload"], c["seed"]): c["best"][-1] for c in curves if c["variant"] == rival}
    mine = [c for c in curves if c["variant"] == variant and (c["workload"], c["seed"]) in last]
    points = []
    for trial in range(LAST):
        by_workload: dict[str, list[float]] = defaultdict(list)
        for curve in mine:
            best = curve["best"][trial]
            ratio = last[curve["workload"], curve["seed"]] / best if best else math.nan
            by_workload[curve["workload"]].append(ratio)
        ratios = list(by_workload.values())
        mean = geometric_mean([ratio for seeds in ratios for ratio in seeds])
        points.append((mean, *geometric_interval(ratios, seed=0)))
    return points


def draw_curves(curves: Mapping[Comparison, Mapping[str, Points]], ink: Ink, path: Path) -> None:
    """One panel for each comparison."""
    figure, axes = _figure(ink, len(curves), (9.0, 3.4))
    for plot, (comparison, by_variant) in zip(axes, curves.items(), strict=True):
        rival = next(iter(comparison.rivals))
        names = {"world-model": "world model", **comparison.rivals}
        plot.axhline(1, color=ink.text, lw=0.8, ls=":")
        for variant, name in names.items():
            means, lows, highs = zip(*by_variant[variant], strict=True)
            trials = range(1, LAST + 1)
            color = ink.variants[variant]
            style = {"world-model": "-", rival: "--"}.get(variant, "-.")
            plot.fill_between(trials, lows, highs, step="post", color=color, alpha=0.15, lw=0)
            plot.step(trials, means, where="post", color=color, ls=style, lw=1.8, label=name)
        plot.set_title(comparison.name, fontsize=10, color=ink.text)
        plot.set_xlabel("measured trials", fontsize=9, color=ink.text)
        plot.set_ylabel(
            f"speed, {names[rival]} after {LAST} trials = 1", fontsize=9, color=ink.text
        )
        plot.set_xlim(1, LAST)
        plot.set_xticks([1, *range(FIRST, LAST + 1, FIRST)])
        plot.set_ylim(0, 1.5)
        plot.legend(fontsize=8, loc="lower right", frameon=False, labelcolor=ink.text)
    _save(figure, path)


def draw_workloads(
    results: Mapping[str, Any], comparison: Comparison, ink: Ink, path: Path
) -> None:
    """Speed-up of each workload after few and after all trials, one panel for each rival."""
    workloads = list(dict.fromkeys(row["workload"] for row in results["rows"]))
    height = 1.1 + 0.27 * len(workloads)
    figure, axes = _figure(ink, len(comparison.rivals), (3.2 + 3 * len(comparison.rivals), height))
    for plot, (variant, name) in zip(axes, comparison.rivals.items(), strict=True):
        plot.axvline(1, color=ink.text, lw=0.8, ls=":")
        ends: list[dict[str, float]] = []
        for trials, marker, fill in ((FIRST, "o", ink.background), (LAST, "o", None)):
            color = ink.variants["world-model"]
            by_workload = compare(_found(results), "world-model", variant, trials)["by_workload"]
            ends.append(by_workload)
            plot.plot(
                [by_workload[workload] for workload in workloads],
                range(len(workloads)),
                ls="",
                marker=marker,
                ms=6,
                color=color,
                mfc=fill or color,
                label=f"{trials} trials",
                zorder=3,
            )
        for at, workload in enumerate(workloads):
            few, all_ = (by_workload[workload] for by_workload in ends)
            plot.plot([few, all_], [at, at], color=ink.grid, lw=2, zorder=1)
        plot.set_yticks(range(len(workloads)), [w.split(":")[0] for w in workloads])
        plot.invert_yaxis()
        plot.set_xscale("log")
        ticks = [0.75, 1, 1.5, 2, 3]
        plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        plot.set_xticks([], minor=True)
        plot.set_xlim(0.75, 3.8)
        plot.set_xlabel(f"speed-up over {name}", fontsize=9, color=ink.text)
    marks, names = axes[0].get_legend_handles_labels()
    figure.legend(
        marks,
        names,
        fontsize=8,
        frameon=False,
        labelcolor=ink.text,
        loc="outside upper right",
        ncols=2,
    )
    for plot in axes[1:]:
        plot.set_yticklabels([])
    _save(figure, path)


def draw_ranking(ranking: Mapping[str, Any], ink: Ink, path: Path) -> None:
    """Pairwise accuracy of each model on each device."""
    figure, (plot,) = _figure(ink, 1, (6.2, 2.4))
    for (device, name), marker in zip(RANKED.items(), "os^", strict=True):
        accuracies = [ranking[device][model]["pairwise"] for model in RANKERS]
        color = list(ink.variants.values())["os^".index(marker)]
        at = range(len(RANKERS))
        plot.plot(accuracies, at, ls="", marker=marker, ms=6, color=color, label=name, zorder=3)
    plot.set_yticks(range(len(RANKERS)), list(RANKERS.values()))
    plot.invert_yaxis()
    plot.set_xlabel("pairwise accuracy", fontsize=9, color=ink.text)
    plot.legend(fontsize=8, frameon=False, labelcolor=ink.text, loc="center left")
    _save(figure, path)


def _figure(ink: Ink, panels: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure of panels beside each other, in the ink's colours."""
    import matplotlib as mpl

    mpl.use("agg")
    # Text stays text, and the same data give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cwm_jax"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=size, squeeze=False, layout="constrained")
    for plot in axes[0]:
        plot.grid(color=ink.grid, lw=0.6)
        plot.set_axisbelow(True)
        plot.tick_params(colors=ink.text, labelsize=8)
        for spine in plot.spines.values():
            spine.set_color(ink.grid)
    return figure, list(axes[0])


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, metadata={"Date": None}, transparent=True)
    plt.close(figure)
    # A hundredth of a point is not seen, and six decimals make the file twice as large.
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", text))


if __name__ == "__main__":
    main()
