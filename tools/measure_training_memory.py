"""Trains on a log of any size, streamed, and says how much memory that took.

    uv run python tools/measure_training_memory.py tools/corpus/cpu-x86-2core \
      --hardware cpu-x86-2core --records 1000000 --out tools/results/training-memory.json

The log repeats a corpus, latencies scattered by 5 % each time, so its size is real and what is
learned from it is not. `cwm train --stream` reads it in a process of its own.
"""

import argparse
import dataclasses
import itertools
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson

from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.graph import graphs_beside
from cwm_jax.records.lines import append_member, in_chunks
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Record
from cwm_jax.tuning.machine import describe_machine
from cwm_jax.tvm_bridge.runtime import run_on_all_cores

_MEMBER = 8192


def main() -> None:
    """Writes the log, trains, and adds a row to the results."""
    parser = argparse.ArgumentParser(description="Measures the memory of streamed training.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--hardware", required=True)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs"), help="for gigabytes of files")
    parser.add_argument("--out", type=Path, required=True, help="JSON, one row a size")
    options = parser.parse_args()
    run_on_all_cores()
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        log = Path(folder) / "records.jsonl.gz"
        source = options.corpus / "records.jsonl.gz"
        records = load_records(source, valid_only=True)
        for lines in in_chunks(_repeated(records, options.records), _MEMBER):
            append_member(log, lines)
        if graphs := graphs_beside(source):
            shutil.copy(graphs, log.with_name(graphs.name))
        command = [sys.executable, "-m", "cwm_jax.cli.main", "train", str(log)]
        command += ["--hardware", options.hardware, "--stream", folder]
        command += ["--epochs", str(options.epochs), "--out", f"{folder}/checkpoint"]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    row = {
        "records": options.records,
        "epochs": options.epochs,
        "peak_memory_bytes": peak,
        "seconds": round(seconds, 1),
        "machine": describe_machine(),
    }
    print(f"{options.records} records: {peak / 2**30:.2f} GiB at most, {seconds / 60:.0f} min")
    known = orjson.loads(options.out.read_bytes()) if options.out.exists() else []
    kept = [other for other in known if other["records"] != options.records]
    rows = sorted([*kept, row], key=lambda each: each["records"])
    options.out.write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2) + b"\n")


def _repeated(records: Sequence[Record], count: int) -> Iterator[str]:
    random = np.random.default_rng(0)
    for record in itertools.islice(itertools.cycle(records), count):
        costs = tuple(float(cost * random.lognormal(0, 0.05)) for cost in record.costs)
        yield format_line(dataclasses.replace(record, costs=costs))


if __name__ == "__main__":
    main()
