"""The ranking table: our model, its ablations and the published static models.

    uv run python tools/rank_models.py tools/corpus/cpu-x86-2core --hardware cpu-x86-2core \
        --also cpu-x86-1core=tools/corpus/cpu-x86-1core --out tools/results/ranking.json

All models see the same records; the held-out networks' workloads are in nobody's training set.
A corpus without networks (`tools/import_log.py`) holds a fifth of its workloads out. All models
train on corpora of other devices, too, where they are given, less the held-out workloads. Goes on
with an existing file: a model and seed that are in it are not trained again, and several processes
can share the work (of two that write in the same moment, one may have to be trained again). The
replay column is the latency of the recorded search over the model's after 64 measurements, where
histories are long enough (`cwm_jax.bench.offline_search`).
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.bench.ranking import Corpus, contenders, judge
from cwm_jax.bench.search_summary import six_digits
from cwm_jax.compilation import keep_compiled_programs
from cwm_jax.features.hardware import load_hardware
from cwm_jax.files import readable_json, write_atomically
from cwm_jax.records.graph import graphs_beside, read_graphs
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Record
from cwm_jax.records.store_features import Stores, read_stores, stores_path
from cwm_jax.training.dataset import (
    NetworkSplit,
    build_dataset,
    group_records,
    hold_out_workloads,
    split_by_network,
)
from cwm_jax.tuning import corpus as corpus_files
from cwm_jax.tuning.corpus import HELD_OUT_NETWORKS, read_tasks


def main() -> None:
    """Trains what is missing, and prints the table as Markdown: means over seeds, ± half range."""
    parser = argparse.ArgumentParser(description="The ranking table.")
    parser.add_argument("corpus", type=Path, help="folder that cwm collect wrote")
    parser.add_argument("--hardware", required=True, help="name of a hardware card")
    parser.add_argument(
        "--also",
        nargs="*",
        default=[],
        metavar="HARDWARE=FOLDER",
        help="corpora of other devices to train on",
    )
    parser.add_argument("--out", required=True, type=Path, help="JSON to write or to go on with")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=list(contenders()), help="default: all")
    options = parser.parse_args()
    keep_compiled_programs()
    corpus, occurrences = load(options.corpus, options.hardware)
    known = {key: found for key, found in occurrences.items() if key in corpus.dataset}
    split = hold_out(known)
    others: list[str] = []
    for text in options.also:
        name, _, folder = text.partition("=")
        other, found = load(Path(folder), name)
        left_out = {*split.test_keys, *hold_out(found).test_keys}
        corpus = merge(corpus, other, {key: f"{name} {key}" for key in other.dataset})
        others += [f"{name} {key}" for key in other.dataset if key not in left_out]
    records = sum(len(corpus.dataset[key].latencies) for key in (*split.train, *split.test_keys))
    more = sum(len(corpus.dataset[key].latencies) for key in others)
    print(
        f"{records} records, {len(split.train)} workloads to train on and {len(split.test_keys)} "
        f"held out in {', '.join(split.test)}; {more} records of other devices to train on",
        flush=True,
    )
    fits = contenders()
    for seed in options.seeds:
        for name in options.models or fits:
            if str(seed) in read_runs(options.out, options.hardware).get(name, {}):
                continue
            fitted = fits[name](corpus, (*split.train, *others), split.test_keys, seed)
            found = judge(corpus, split, fitted)
            add_run(options.out, options.hardware, name, seed, found)
            print(row(f"{name} seed {seed}", found), flush=True)
    print("\n" + "\n".join(markdown(summarise(read_runs(options.out, options.hardware)))))


def read_results(out: Path) -> dict[str, Any]:
    """What the file holds so far."""
    return orjson.loads(out.read_bytes()) if out.exists() else {"runs": {}}


def read_runs(out: Path, hardware: str) -> dict[str, Any]:
    """What each seed of each model has reached so far."""
    return read_results(out)["runs"].get(hardware, {})


def add_run(out: Path, hardware: str, name: str, seed: int, found: dict[str, Any]) -> None:
    """Adds a run to what the file holds by now: several processes can share the work."""
    results = read_results(out)
    runs = results["runs"].setdefault(hardware, {})
    runs.setdefault(name, {})[str(seed)] = six_digits(found)  # seeds differ in the third
    results[hardware] = summarise(runs)
    write_atomically(out, readable_json(results))


def load(folder: Path, hardware: str) -> tuple[Corpus, dict[str, dict[str, int]]]:
    """Reads a corpus in every form that some model takes."""
    files = corpus_files.Corpus(folder)
    records = load_records(files.records, summary=LogSummary())
    stores = read_stores(stores_path(files.records), len(records))
    beside = graphs_beside(files.records)
    graphs = read_graphs(beside) if beside else {}
    dataset = build_dataset(records, graphs, load_hardware(hardware), stores)
    records_of: dict[str, list[Record]] = defaultdict(list)
    stores_of: dict[str, list[Stores]] = defaultdict(list)
    names: dict[str, list[str]] = defaultdict(list)
    for name, rows in group_records(records).items():
        names[records[rows[0]].workload_key].append(name)
        records_of[name] = [records[at] for at in rows]
        stores_of[name] = [stores[at] for at in rows]
    # Workloads without a compute graph have no features for the static models to read.
    occurrences = {
        name: task.occurrences
        for task in read_tasks(files.tasks)
        for name in names[task.workload_key]
        if name in dataset and all(map(len, stores_of[name]))
    }
    return Corpus(dataset, records_of, stores_of), occurrences


def hold_out(occurrences: dict[str, dict[str, int]]) -> NetworkSplit:
    """Holds networks out, or workloads where no networks are known."""
    split = split_by_network(occurrences, HELD_OUT_NETWORKS)
    return split if split.test else hold_out_workloads(split.train)


def merge(corpus: Corpus, other: Corpus, names: dict[str, str]) -> Corpus:
    """Adds another corpus, its workloads under other names."""
    return Corpus(
        {**corpus.dataset, **{names[key]: other.dataset[key] for key in names}},
        {**corpus.records, **{names[key]: other.records[key] for key in names}},
        {**corpus.stores, **{names[key]: other.stores[key] for key in names}},
    )


def summarise(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over seeds, and the range of top-1."""
    found: dict[str, dict[str, float]] = {}
    for name, by_seed in runs.items():
        rows = list(by_seed.values())
        columns = [c for c, value in rows[0].items() if isinstance(value, int | float)]
        found[name] = {c: statistics.fmean(row[c] for row in rows) for c in columns}
        top1 = [row["top1"] for row in rows]
        found[name] |= {"top1_spread": max(top1) - min(top1), "seeds": len(rows)}
    return found


def markdown(found: dict[str, dict[str, float]]) -> list[str]:
    """The table of docs/results.md with all columns, best pairwise accuracy first."""
    lines = [
        "| model | top-1 | top-1, unweighted | top-5 | pairwise | Spearman | replay | training s "
        "| candidates/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    columns = ("top1_unweighted", "top5", "pairwise", "spearman")
    for name, means in sorted(found.items(), key=lambda pair: -pair[1]["pairwise"]):
        replay = means.get("replay_speedup_adapted", means.get("replay_speedup"))
        rate, spread = means.get("candidates_per_second"), means["top1_spread"]
        cells = [
            f"`{name}`",
            f"{means['top1']:.3f}" + (f" ± {spread / 2:.3f}" if means["seeds"] > 1 else ""),
            *(f"{means[column]:.3f}" for column in columns),
            f"{replay:.3f}" if replay else "",
            f"{means['train_seconds']:.0f}",
            f"{rate:,.0f}" if rate else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the printed table."""
    values = (found[column] for column in ("top1", "top5", "pairwise", "spearman"))
    return f"{name:32} " + "  ".join(f"{value:.3f}" for value in values)


if __name__ == "__main__":
    main()
