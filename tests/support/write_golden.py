"""Writes `tests/data/traces.*`: real traces, and the loops that TVM makes of them.

uv run python tests/support/write_golden.py
"""

import gzip
import sys
import tempfile
from pathlib import Path

import orjson

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS)]

from cwm_jax.records.graph import write_graphs  # noqa: E402
from cwm_jax.tuning.metaschedule.targets import resolve_target  # noqa: E402
from cwm_jax.tvm_bridge.runtime import use  # noqa: E402
from support.tasks import make_task  # noqa: E402
from support.tvm_loops import tvm_loops  # noqa: E402

TARGET = '{"kind": "llvm", "mcpu": "skylake-avx512", "num-cores": 4}'
WORKLOADS = (
    "matmul:64,64,64",
    "conv2d:1,14,14,32,64,3,1,1",
    "conv2d_bias_relu:1,14,14,32,64,3,1,1",
    "depthwise_conv2d:1,28,28,32,3,1,1",
    "norm:4,64,64",
    "softmax:64,128",
)


def main() -> None:
    """Samples schedules of each workload."""
    tvm = use("metaschedule")
    databases = tvm.s_tir.meta_schedule.database
    lines: list[bytes] = []
    graphs = []
    for workload in WORKLOADS:
        task = make_task(tvm, resolve_target(tvm, TARGET), workload)
        graphs.append(task.graph)
        for schedule in task.sample(tvm, 9):
            with tempfile.TemporaryDirectory() as folder:
                paths = [str(Path(folder) / name) for name in ("workloads", "records")]
                database = databases.JSONDatabase(*paths)
                stored = database.commit_workload(task.module)
                database.commit_tuning_record(
                    databases.TuningRecord(schedule.trace, stored, [1.0], task.context.target, [])
                )
                trace = orjson.loads(Path(paths[1]).read_bytes())[1][0]
            loops = tvm_loops(tvm, task, schedule)
            golden = {"workload": task.graph.workload_key, "trace": trace, "loops": loops}
            lines.append(orjson.dumps(golden))
    write_graphs(graphs, TESTS / "data" / "traces.programs.jsonl.gz")
    with gzip.GzipFile(TESTS / "data" / "traces.jsonl.gz", "wb", mtime=0) as file:
        file.write(b"\n".join(lines) + b"\n")
    print(f"wrote {len(lines)} traces of {len(graphs)} workloads")


if __name__ == "__main__":
    main()
