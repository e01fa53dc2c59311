"""Features of lowered programs, and compute graphs told from the records of public logs."""

import numpy as np
import pytest

from cwm_jax import load_records
from cwm_jax.records.store_features import STORE_WIDTH
from cwm_jax.tvm_bridge.ansor import schedules_of_states
from cwm_jax.tvm_bridge.named_workloads import _variants, rebuild_workload, replays
from cwm_jax.tvm_bridge.programs import program_of_dag
from cwm_jax.tvm_bridge.store_features import extract_stores
from cwm_jax.tvm_bridge.workloads import create_task, parse_workload

TARGET = "llvm -mcpu=core-avx2 -num-cores=2"
CONV = '["conv2d_layer", 1, 8, 14, 14, 16, 3, 3, 1, "SAME"]'


def test_store_features_come_in_the_order_of_the_records(tvm, measured_log):
    records = load_records(measured_log)
    key = next(r.workload_key for r in records if r.workload_key.startswith('["matmul"'))
    numbers = key[1:-1].split(", ")[1:4]
    task = create_task(tvm, parse_workload(f"matmul:{','.join(numbers)}"), TARGET)
    assert task.workload_key == key
    mine = [record for record in records if record.workload_key == key][:6]
    other = next(record for record in records if record.workload_key != key)
    found = extract_stores(tvm, [mine[0], other, *mine[1:]], {key: task})
    assert [rows.shape[1] for rows in found] == [STORE_WIDTH] * 7
    assert len(found[1]) == 0
    assert all(len(rows) > 0 and np.isfinite(rows).all() for rows in [found[0], *found[2:]])
    backwards = extract_stores(tvm, mine[::-1], {key: task})
    for rows, again in zip([found[0], *found[2:]], backwards[::-1], strict=True):
        # TVM orders buffers that are alike by their address.
        np.testing.assert_allclose(np.sort(rows), np.sort(again), rtol=1e-6)
    assert len({rows.tobytes() for rows in backwards}) > 1


@pytest.mark.parametrize("variant", [0, 1, 3])
def test_the_fused_variant_is_told_from_the_records(tvm, variant):
    """Convolution alone, with ReLU, with bias and ReLU: the key is the same for all three."""
    ansor = tvm.auto_scheduler
    tensors = list(_variants(tvm, CONV))[variant]
    ansor.workload_registry.register_workload_tensors(CONV, tensors, override=True)
    task = ansor.SearchTask(workload_key=CONV, target=tvm.target.Target(TARGET))
    states = list(ansor.SketchPolicy(task, verbose=0, seed=1).sample_initial_population())
    schedules = schedules_of_states(task, states)
    rebuilt = rebuild_workload(tvm, CONV, schedules)
    assert rebuilt is not None
    assert rebuilt.program == program_of_dag(tvm, task.compute_dag, CONV, packed=False)
    assert rebuilt.flop == pytest.approx(float(task.compute_dag.flop_ct))
    dag = ansor.ComputeDAG(list(_variants(tvm, CONV))[2])
    other = program_of_dag(tvm, dag, CONV, packed=False)
    assert not all(replays(other, schedule) for schedule in schedules)


def test_unknown_functions_are_not_guessed(tvm):
    assert rebuild_workload(tvm, '["my_own_layer", 3, 4]', []) is None
