"""What `cwm bench search` found, as a Markdown table and as curves.

    uv run python tools/summarise_searches.py tools/results/search.json --curves DIR
    uv run python tools/summarise_searches.py tools/results/search.runs.jsonl.xz --json FILE

Reads the JSON of `cwm bench search`, or makes it anew from the runs: from the benchmark's folder or
from the file that `tools/pack_searches.py` made of it. Which runs are compared is then read from a
JSON: `NAME.json` for `NAME.runs.jsonl.xz` or a folder `NAME`, another by `--like`.

Below the table, for each machine: the speed-up, the extreme pairs, how far the fastest program that
any of its searches found is ahead and how much of that the first variant reaches, how much longer
the winners took when they were measured again than in the search that chose them, how far apart the
seeds of a workload end, and how far the slowest of a winner's measurements is from the fastest.
Then, for all machines, by what the searches measured themselves: after how many trials the first
variant has what another has at its end, and how much longer the other's searches take, measuring
included.

Curves: best latency so far, as measured in the search, relative to the best that any search of the
workload found; against trials, and against wall-clock seconds.
"""

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.bench.search_runs import aggregate, read_runs
from cwm_jax.bench.search_summary import Found, captured_headroom, pace
from cwm_jax.errors import CwmError
from cwm_jax.files import readable_json

_COLUMNS = 4
_INK = {"world-model": "#d1495b", "xgboost": "#30638e"}
_OTHER = "#8d99ae"


def main() -> None:
    """Prints the table and draws the curves."""
    parser = argparse.ArgumentParser(description="Shows what cwm bench search found.")
    parser.add_argument(
        "results", type=Path, help="JSON of cwm bench search, its --out folder, or a packed file"
    )
    parser.add_argument("--curves", type=Path, metavar="DIR", help="where to draw curves")
    runs = parser.add_argument_group("for a folder or a packed file")
    runs.add_argument("--like", type=Path, metavar="JSON", help="says which runs are compared")
    runs.add_argument("--rounds", type=int, default=0, help="measurements of each winner (all)")
    runs.add_argument("--json", type=Path, metavar="FILE", help="where to write the summary")
    options = parser.parse_args()
    try:
        data = load(options.results, options.like, options.rounds)
    except CwmError as error:
        raise SystemExit(str(error)) from error
    if options.json:
        options.json.write_bytes(readable_json(data))
    print("\n".join([*table(data), "", *by_machine(data), *paces(data)]))
    if options.curves:
        options.curves.mkdir(parents=True, exist_ok=True)
        draw(data["curves"], "trials", options.curves / "trials.png")
        draw(data["curves"], "seconds", options.curves / "seconds.png")


def load(results: Path, like: Path | None = None, rounds: int = 0) -> dict[str, Any]:
    """Reads a summary, or makes it from the runs.

    Args:
        results: JSON of `cwm bench search`, its folder, or a packed file.
        like: JSON that says which runs are compared; by default the one of the same name.
        rounds: As for `aggregate`.

    Raises:
        CwmError: A file is missing or damaged.
    """
    file = results
    if results.suffix != ".json":
        name = results.name.removesuffix(".xz").removesuffix(".jsonl").removesuffix(".runs")
        file = like or results.with_name(f"{name}.json")
    try:
        summary = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise CwmError(f"{file}: expected the JSON of cwm bench search ({error})") from error
    return summary if file == results else aggregate(read_runs(results), summary, rounds)


def table(data: dict[str, Any]) -> list[str]:
    """The winners' latencies, measured again, and the first variant's speed-up over the others."""
    variants = list(data["variants"])
    first, others = variants[0], variants[1:]
    longest = max(row["trials"] for row in data["rows"] if row["variant"] == first)
    shortest = min(row["trials"] for row in data["rows"])
    compared = sorted({shortest, longest})
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for row in data["rows"]:
        if row["latency"] is not None:
            found[row["workload"], row["variant"], row["trials"]].append(row["latency"])
    heads = [f"{name}, {longest} trials" for name in variants]
    ratios = [f"{n} trials: over {name}" for name in others for n in compared]
    lines = ["| " + " | ".join(["workload", *heads, *ratios]) + " |"]
    lines.append("|" + "---|" * (1 + len(heads) + len(ratios)))
    for workload in dict.fromkeys(row["workload"] for row in data["rows"]):
        if not found[workload, first, longest]:
            continue
        cells = [
            ", ".join(f"{latency * 1e3:.3f}" for latency in found[workload, name, longest]) + " ms"
            for name in variants
        ]
        for name in others:
            for trials in compared:
                pairs = zip(
                    found[workload, first, trials], found[workload, name, trials], strict=False
                )
                cells.append(f"{_geomean([theirs / ours for ours, theirs in pairs]):.2f}")
        lines.append("| " + " | ".join([f"`{workload}`", *cells]) + " |")
    return lines


def by_machine(data: dict[str, Any]) -> list[str]:
    """One line for each folder of searches and pair of variants, one for each variant's winners."""
    variants = list(data["variants"])
    lines: list[str] = []
    for folder in dict.fromkeys(row.get("folder", "all") for row in data["rows"]):
        rows = [row for row in data["rows"] if row.get("folder", "all") == folder]
        # References are longer, and compared with nothing.
        for trials in sorted({row["trials"] for row in rows if row["variant"] == variants[0]}):
            told = [row for row in rows if row["trials"] == trials and row["latency"]]
            found = [
                *(line for o in variants[1:] for line in _over(rows, told, variants[0], o, trials)),
                *(line for name in variants for line in _winners(told, name)),
            ]
            lines += [f"{folder}, {trials} trials: {line}" for line in found]
        spreads = [row["spread"] for row in rows if row.get("spread")]
        if spreads:
            lines.append(
                f"{folder}: slowest over fastest measurement of a winner "
                f"{statistics.median(spreads):.2f} (median), at most {max(spreads):.2f}"
            )
    return lines


def _over(
    rows: Sequence[dict[str, Any]],
    told: Sequence[dict[str, Any]],
    variant: str,
    other: str,
    trials: int,
) -> list[str]:
    """A variant's speed-up over another, and how much there was to win; nothing without a pair."""
    found = {(row["workload"], row["seed"], row["variant"]): row for row in told}
    ratios = [
        theirs["latency"] / row["latency"]
        for (workload, seed, name), row in found.items()
        if name == variant and (theirs := found.get((workload, seed, other)))
    ]
    if not ratios:
        return []
    return [
        f"{variant} over {other} {_geomean(ratios):.3f}, pairs from {min(ratios):.2f} to "
        f"{max(ratios):.2f}",
        _share_of_fastest(rows, variant, other, trials),
    ]


def _winners(told: Sequence[dict[str, Any]], name: str) -> list[str]:
    """How a variant's winners kept their word, and how far apart its seeds end."""
    mine = [row for row in told if row["variant"] == name]
    lines: list[str] = []
    longer = [row["latency"] / row["in_search"] for row in mine]
    if longer:
        lines.append(
            f"winners of {name}, measured again, took {statistics.median(longer):.2f} times as "
            "long (median)"
        )
    seeds: dict[str, list[float]] = defaultdict(list)
    for row in mine:
        seeds[row["workload"]].append(row["latency"])
    apart = [max(ends) / min(ends) for ends in seeds.values() if len(ends) > 1]
    if apart:
        lines.append(
            f"slowest over fastest seed of {name} {statistics.median(apart):.2f} "
            f"(median of {len(apart)} workloads)"
        )
    return lines


def _share_of_fastest(
    rows: Sequence[dict[str, Any]], variant: str, reference: str, trials: int
) -> str:
    """How far a machine's fastest programs are ahead of a variant's, and how far another gets."""
    told = [row for row in rows if row["latency"]]
    fastest: dict[str, float] = {}
    for row in told:
        workload, latency = row["workload"], row["latency"]
        fastest[workload] = min(latency, fastest.get(workload, math.inf))
    found = [
        Found(r["workload"], r["variant"], r["seed"], r["trials"], r["latency"], math.nan)
        for r in told
    ]
    optimum = {(f.workload, f.seed): fastest[f.workload] for f in found}
    share = captured_headroom(found, variant, reference, trials, optimum)
    return (
        f"the fastest program that any search found is {share['headroom']:.2f} times as fast as "
        f"{reference}'s; {variant} goes {share['captured']:.0%} of the way"
    )


def paces(data: dict[str, Any]) -> list[str]:
    """One line for each other variant: trials until as good as it, and how long it takes."""
    first, *others = data["variants"]
    longest = max(row["trials"] for row in data["rows"] if row["variant"] == first)
    curves = [curve for curve in data["curves"] if curve["trials"] == longest]
    lines: list[str] = []
    for other in others:
        trials, times = pace(curves, first, other)
        if trials and times:
            lines.append(
                f"{first} is as good as {other} after {longest} trials after "
                f"{statistics.median(trials):g} (median of {len(trials)} pairs; "
                f"{trials.count(1)} after the first, {trials.count(math.inf)} never); "
                f"{other} takes {statistics.median(times):.2f} times as long "
                f"(median of {len(times)})"
            )
    return lines


def _geomean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def draw(curves: Sequence[dict[str, Any]], axis: str, path: Path) -> None:
    """Draws one small plot a workload; thin lines are seeds."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    workloads = list(dict.fromkeys(curve["workload"] for curve in curves))
    rows = math.ceil(len(workloads) / _COLUMNS)
    figure, axes = plt.subplots(
        rows, _COLUMNS, figsize=(3.2 * _COLUMNS, 2.5 * rows), squeeze=False, layout="constrained"
    )
    for plot in axes.flat[len(workloads) :]:
        plot.axis("off")
    for plot, workload in zip(axes.flat, workloads, strict=False):
        mine = [curve for curve in curves if curve["workload"] == workload]
        best = min(value for curve in mine for value in curve["best"] if value)
        drawn: set[str] = set()
        for curve in mine:
            at = _places(curve, axis)
            values = [value / best if value else math.nan for value in curve["best"]]
            name = curve["variant"]
            label = None if name in drawn else name
            drawn.add(name)
            color = _INK.get(name, _OTHER)
            plot.step(at, values, where="post", lw=1.2, color=color, label=label)
        plot.set_title(workload, fontsize=8)
        plot.set_yscale("log")
        plot.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=7)
    figure.supxlabel("seconds" if axis == "seconds" else "measured trials", fontsize=9)
    figure.supylabel("latency over the best found", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _places(curve: dict[str, Any], axis: str) -> list[float]:
    """Where each trial stands: its number, or when its round ended."""
    if axis == "trials":
        return list(range(1, len(curve["best"]) + 1))
    places: list[float] = []
    for trials, end in zip(curve["round_trials"], curve["round_ends"], strict=True):
        places += [end] * (trials - len(places))
    return places


if __name__ == "__main__":
    main()
