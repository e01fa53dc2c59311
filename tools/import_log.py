"""Turns a public log whose workload keys name functions into a corpus folder.

    uv run python tools/import_log.py LOG FOLDER --per-workload 200

Writes a sample of each workload's records in the order of the log (of the fifth of the workloads
that `rank_models.py` holds out the whole history), the compute graphs that could be rebuilt, and
the tasks, so that `extract_stores.py`, `rank_models.py` and `cwm train`
read it as they read what `cwm collect` measured.
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.graph import ComputeGraph, write_graphs
from cwm_jax.records.lines import LogSummary, append_member
from cwm_jax.records.logs import iterate_records
from cwm_jax.records.record import Record
from cwm_jax.training.dataset import hold_out_workloads
from cwm_jax.tuning.corpus import Corpus, CorpusTask, write_tasks
from cwm_jax.tvm_bridge.ansor.graphs import NO_REWRITE
from cwm_jax.tvm_bridge.ansor.named_workloads import rebuild_workload
from cwm_jax.tvm_bridge.runtime import use


def main() -> None:
    """Samples, rebuilds, and says how many workloads could be rebuilt."""
    parser = argparse.ArgumentParser(description="Turns a public log into a corpus folder.")
    parser.add_argument("log", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-workload", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in iterate_records(options.log, LogSummary()):
        groups[record.workload_key].append(record)
    tvm = use("ansor")
    rng = np.random.default_rng(options.seed)
    corpus = Corpus(options.folder)
    options.folder.mkdir(parents=True, exist_ok=True)
    corpus.records.unlink(missing_ok=True)
    graphs: list[ComputeGraph] = []
    tasks: list[CorpusTask] = []
    counts: Counter[str] = Counter()
    held_out = hold_out_workloads(list(groups)).test_keys
    for key, records in sorted(groups.items()):
        name = json.loads(key)[0]
        rebuilt = rebuild_workload(tvm, key, records)
        counts[f"{name if len(name) < 32 else 'hash'}: {'rebuilt' if rebuilt else 'unknown'}"] += 1
        if rebuilt:
            counts[f"{name}: records of another variant, left out"] += len(records) - len(
                rebuilt.fitting
            )
            records = [records[at] for at in rebuilt.fitting]
            graphs.append(rebuilt.graph)
            tasks.append(
                CorpusTask(
                    workload_key=key,
                    target=records[0].target,
                    layout_rewrite=NO_REWRITE,
                    flop=rebuilt.flop,
                    tensors=str(tvm.ir.save_json(rebuilt.tensors)),
                    occurrences={},
                    hardware_parameters=records[0].task.hardware_parameters,
                )
            )
        limit = len(records) if key in held_out else options.per_workload
        kept = np.sort(rng.permutation(len(records))[:limit])
        append_member(corpus.records, (format_line(records[at]) for at in kept))
    write_graphs(graphs, corpus.graphs)
    write_tasks(corpus.tasks, tasks)
    print(f"{len(graphs)} of {len(groups)} workloads rebuilt")
    for name, count in sorted(counts.items()):
        print(f"  {name} {count}")


if __name__ == "__main__":
    main()
