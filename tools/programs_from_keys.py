"""Writes the compute graphs of a log whose workload keys name functions: LOG -> PROGRAMS.

uv run python tools/programs_from_keys.py records.jsonl.gz --out records.programs.jsonl.gz
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

from cwm_jax.records.ansor_log import LogSummary, iterate_records
from cwm_jax.records.program import Program, write_programs
from cwm_jax.records.steps import Step
from cwm_jax.tvm_bridge.named_workloads import rebuild_program
from cwm_jax.tvm_bridge.runtime import use


def main() -> None:
    """Rebuilds what can be rebuilt and says how many workloads that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    schedules: dict[str, list[tuple[Step, ...]]] = defaultdict(list)
    for record in iterate_records(options.log, LogSummary()):
        schedules[record.workload_key].append(record.steps)
    tvm = use("ansor")
    programs: list[Program] = []
    counts: Counter[str] = Counter()
    for key, found in schedules.items():
        name = json.loads(key)[0]
        program = rebuild_program(tvm, key, found)
        counts[f"{name if len(name) < 32 else 'hash'}: {'rebuilt' if program else 'unknown'}"] += 1
        if program:
            programs.append(program)
    write_programs(programs, options.out)
    print(f"{len(programs)} of {len(schedules)} workloads rebuilt")
    for name, count in sorted(counts.items()):
        print(f"  {name} {count}")


if __name__ == "__main__":
    main()
