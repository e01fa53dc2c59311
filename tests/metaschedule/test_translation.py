"""Real traces of today's TVM as steps, and modules as programs."""

import pytest
from support.final_loops import final_loops
from support.hand_written import no_block
from support.tasks import make_task
from support.tvm_loops import tvm_loops

from cwm_jax.errors import GraphError
from cwm_jax.features.batch import encode_schedules
from cwm_jax.tvm_bridge.metaschedule.tir import graph_of_module

CUDA = {
    "kind": "cuda",
    "arch": "sm_80",
    "max_threads_per_block": 1024,
    "max_shared_memory_per_block": 49152,
    "thread_warp_size": 32,
}


def matmul_module(tvm, n: int, operand: str, result: str):
    """A matrix product that multiplies small types and sums up in a large one."""
    te = tvm.te
    left = te.placeholder((n, n), "uint8" if operand == "int8" else operand, name="A")
    right = te.placeholder((n, n), operand, name="B")
    k = te.reduce_axis((0, n), "k")
    product = te.compute(
        (n, n),
        lambda i, j: te.sum(left[i, k].astype(result) * right[j, k].astype(result), axis=k),
        name="C",
    )
    return tvm.IRModule({"main": te.create_prim_func([left, right, product])})


@pytest.mark.parametrize(
    "workload",
    [
        "dense:16,96,128",
        "batch_matmul:4,64,32,64",
        "conv2d:1,14,14,32,64,3,2,1",
        "conv3d:1,4,8,8,16,32,3,1,1",
        "depthwise_conv2d:1,28,28,32,3,1,1",
        "norm:2,64,32",
        "softmax:32,96",
    ],
)
def test_steps_lead_to_the_loops_that_tvm_has(tvm, create_task, workload):
    task = create_task(workload)
    candidates = task.candidates(tvm, 12)
    assert len(candidates) > 6
    schedules = task.steps(tvm, candidates)
    for candidate, schedule in zip(candidates, schedules, strict=True):
        ours = final_loops(task.graph, schedule)
        for block, expected in tvm_loops(tvm, task, candidate.sch).items():
            assert expected[len(expected) - len(ours[block]) :] == ours[block], block


def test_gpu_schedules_are_bound(tvm):
    target = tvm.target.Target(CUDA)
    for workload in ("matmul:256,256,256", "conv2d:1,14,14,64,64,3,1,1", "softmax:64,128"):
        task = make_task(tvm, target, workload, "cuda")
        candidates = task.candidates(tvm, 8, verified=False)
        for schedule in task.steps(tvm, candidates):
            bound = {step.fields[2] for step in schedule if step.kind == "AN"}
            assert bound
        arrays = encode_schedules([schedule], task.graph)
        assert (arrays.values[0, :, :] >= 0).all()


def test_tensor_instructions_are_noted(tvm):
    import tvm.s_tir.tensor_intrin.cuda
    import tvm.s_tir.tensor_intrin.x86

    vnni = {"kind": "llvm", "mcpu": "cascadelake", "num-cores": 2}
    amx = {"kind": "llvm", "mcpu": "sapphirerapids", "num-cores": 2}
    for attributes, rules, module in (
        (CUDA, "cuda-tensorcore", matmul_module(tvm, 256, "float16", "float32")),
        (vnni, None, matmul_module(tvm, 64, "int8", "int32")),
        (amx, None, matmul_module(tvm, 64, "int8", "int32")),
    ):
        task = make_task(tvm, tvm.target.Target(attributes), module, rules)
        candidates = task.candidates(tvm, 12, verified=False)
        schedules = task.steps(tvm, candidates)
        named = [
            any(
                step.kind == "PR" and str(step.fields[2]).startswith("auto_tensorize") for step in s
            )
            for s in schedules
        ]
        assert any(named)
        arrays = encode_schedules(schedules, task.graph)
        assert len({row.tobytes() for row in arrays.values}) > len(schedules) // 2


def test_a_program_says_what_its_module_computes(create_task):
    graph = create_task("conv2d:1,14,14,32,64,3,2,1").graph
    multiplies = 7 * 7 * 64 * 32 * 3 * 3
    assert graph.flop == pytest.approx(2 * multiplies, rel=0.01)
    pad, convolution = [stage for stage in graph.stages if stage.kind == "compute"]
    assert pad.shape == (1, 16, 16, 32)
    assert [axis.extent for axis in convolution.axes if axis.reduction] == [3, 3, 32]
    assert [read.affine for read in convolution.reads] == [True, True]


def test_a_scheduled_module_is_read_and_one_without_blocks_is_refused(tvm, create_task):
    task = create_task("dense:16,96,128")
    (scheduled, *_) = task.sample(tvm, 3)
    found = graph_of_module(tvm, scheduled.mod, "its-key")
    computed = [stage.name for stage in found.stages if stage.kind == "compute"]
    assert any(name.startswith("T_matmul_NT") for name in computed)
    with pytest.raises(GraphError, match=r"program its-key: cannot be read \(it has no block\)"):
        graph_of_module(tvm, no_block(), "its-key")
