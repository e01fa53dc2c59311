"""Extracts TVM's per-store features of every program of a corpus: FOLDER -> records.stores.npz.

    uv run python tools/extract_stores.py tools/corpus/cpu-x86-2core

Training aligns terminal latents with them, and the static baselines take them as input.
"""

import argparse
from pathlib import Path

from rich.progress import Progress

from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.records.store_features import stores_path, write_stores
from cwm_jax.tuning.ansor.tasks import search_task
from cwm_jax.tuning.corpus import Corpus, read_tasks
from cwm_jax.tvm_bridge.ansor.graphs import extract_stores
from cwm_jax.tvm_bridge.runtime import use


def main() -> None:
    """Extracts and writes."""
    parser = argparse.ArgumentParser(description="Extracts per-store features of a corpus.")
    parser.add_argument("corpus", type=Path)
    corpus = Corpus(parser.parse_args().corpus)
    records = load_records(corpus.records, summary=LogSummary())
    tvm = use("ansor")
    tasks = {task.workload_key: search_task(tvm, task) for task in read_tasks(corpus.tasks)}
    with Progress() as progress:
        bar = progress.add_task("extracting", total=len(records))
        stores = extract_stores(
            tvm, records, tasks, lambda done: progress.update(bar, completed=done)
        )
    path = stores_path(corpus.records)
    write_stores(path, stores)
    empty = sum(len(rows) == 0 for rows in stores)
    print(f"wrote {path}: {len(stores)} programs, {empty} of them without features")


if __name__ == "__main__":
    main()
