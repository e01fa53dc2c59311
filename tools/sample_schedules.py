"""Draws schedules that nobody measures, and the features of the programs they lead to.

    uv run python tools/sample_schedules.py tools/corpus/cpu-x86-2core --per-workload 64

Terminal alignment needs no latency, and lowering a schedule costs milliseconds where measuring
it costs a second. Writes FOLDER/unmeasured.jsonl.gz, Ansor records without costs, and
FOLDER/unmeasured.stores.npz. Workloads of held-out networks are left out.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.progress import Progress

from cwm_jax.evaluation.splits import split_by_network
from cwm_jax.files import write_atomically
from cwm_jax.records.gzip_log import append_member
from cwm_jax.records.store_features import Stores, stores_path, write_stores
from cwm_jax.tvm_bridge.candidates import Mix, draw_candidates
from cwm_jax.tvm_bridge.corpus_files import Corpus
from cwm_jax.tvm_bridge.corpus_plan import HELD_OUT_NETWORKS
from cwm_jax.tvm_bridge.corpus_tasks import read_tasks, search_task
from cwm_jax.tvm_bridge.runtime import use
from cwm_jax.tvm_bridge.store_features import features_of_states


def main() -> None:
    """Draws, lowers and writes."""
    parser = argparse.ArgumentParser(description="Draws schedules to align with.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--per-workload", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    corpus = Corpus(options.corpus)
    tvm = use("ansor")
    tasks = {task.workload_key: task for task in read_tasks(corpus.tasks)}
    occurrences = {key: task.occurrences for key, task in tasks.items()}
    keys = split_by_network(occurrences, HELD_OUT_NETWORKS).train
    work = corpus.unmeasured.with_suffix(".partial")
    work.unlink(missing_ok=True)
    stores: list[Stores] = []
    half = options.per_workload // 2
    with Progress() as progress:
        for key in progress.track(keys, description="drawing"):
            task = search_task(tvm, tasks[key])
            mix = Mix(sampled=half, mutated=options.per_workload - half, guided=0)
            states = draw_candidates(tvm, task, mix, options.seed, scorer=None, measured=([], []))
            append_member(work, (line_of(tvm, task, state) for state in states))
            stores += features_of_states(tvm, states, task)
    write_stores(stores_path(corpus.unmeasured), stores)
    write_atomically(corpus.unmeasured, work.read_bytes())
    work.unlink()
    lowered = sum(len(rows) > 0 for rows in stores)
    print(f"{len(stores)} schedules of {len(keys)} workloads, {lowered} of them lowered")


def line_of(tvm: Any, task: Any, state: Any) -> str:
    """Returns the log line of a schedule without costs."""
    ansor = tvm.auto_scheduler
    unmeasured = ansor.MeasureResult([], 0, "", 0, 0)
    item = ansor.MeasureInput(task, state)
    return str(ansor.measure_record.dump_record_to_string(item, unmeasured)).strip()


if __name__ == "__main__":
    main()
