"""Features of lowered programs, and compute graphs told from the records of public logs."""

import numpy as np
import pytest

from cwm_jax import load_records
from cwm_jax.records.ansor_log import parse_line
from cwm_jax.records.store_features import STORE_WIDTH
from cwm_jax.tuning.ansor.tasks import create_task
from cwm_jax.tvm_bridge.ansor.graphs import extract_stores, graph_of_dag
from cwm_jax.tvm_bridge.ansor.named_workloads import _variants, rebuild_workload, replays
from cwm_jax.workloads.parse import parse_workload

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


def records_of_variant(tvm, variant, count):
    """Records of sampled schedules of one variant of a convolution, and its graph."""
    ansor = tvm.auto_scheduler
    tensors = list(_variants(tvm, CONV))[variant]
    ansor.workload_registry.register_workload_tensors(CONV, tensors, override=True)
    task = ansor.SearchTask(workload_key=CONV, target=tvm.target.Target(TARGET))
    states = list(ansor.SketchPolicy(task, verbose=0, seed=1).sample_initial_population())
    result = ansor.MeasureResult([0.1], 0, "", 0.2, 0)
    dump = ansor.measure_record.dump_record_to_string
    lines = [dump(ansor.MeasureInput(task, state), result) for state in states[:count]]
    return [parse_line(str(line)) for line in lines], task.compute_dag


@pytest.mark.parametrize("variant", [0, 1, 3])
def test_the_fused_variant_is_told_from_the_records(tvm, variant):
    """Convolution alone, with ReLU, with bias and ReLU: the key is the same for all three."""
    records, dag = records_of_variant(tvm, variant, 64)
    rebuilt = rebuild_workload(tvm, CONV, records)
    assert rebuilt is not None
    assert rebuilt.graph == graph_of_dag(tvm, dag, CONV, packed=False)
    assert rebuilt.flop == pytest.approx(float(dag.flop_ct))
    assert rebuilt.fitting == list(range(len(records)))
    dag = tvm.auto_scheduler.ComputeDAG(list(_variants(tvm, CONV))[2])
    other = graph_of_dag(tvm, dag, CONV, packed=False)
    assert not all(replays(other, record.steps) for record in records)


def test_of_mixed_variants_the_commonest_is_kept(tvm):
    rare, _ = records_of_variant(tvm, 0, 8)
    common, dag = records_of_variant(tvm, 3, 24)
    mixed = [*rare[:4], *common[:12], *rare[4:], *common[12:]]
    rebuilt = rebuild_workload(tvm, CONV, mixed)
    assert rebuilt is not None
    assert rebuilt.graph == graph_of_dag(tvm, dag, CONV, packed=False)
    assert rebuilt.fitting == [*range(4, 16), *range(20, 32)]


def test_unknown_functions_are_not_guessed(tvm):
    assert rebuild_workload(tvm, '["my_own_layer", 3, 4]', []) is None
