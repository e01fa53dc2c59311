"""Converts a file of extracted tasks into programs that training reads without TVM.

uv run python tools/programs_from_tasks.py tasks.jsonl.gz --out records.programs.jsonl.gz
"""

import argparse
from pathlib import Path

from cwm_jax.records.graph import write_graphs
from cwm_jax.tvm_bridge.ansor.graphs import graphs_of_tasks_file
from cwm_jax.tvm_bridge.runtime import use


def main() -> None:
    """Reads, converts and writes."""
    parser = argparse.ArgumentParser(description="Converts tasks into compute graphs.")
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = graphs_of_tasks_file(use("ansor"), options.tasks)
    graphs = {graph.workload_key: graph for graph in found}
    write_graphs(graphs.values(), options.out)
    print(f"wrote {len(graphs)} compute graphs to {options.out}")


if __name__ == "__main__":
    main()
