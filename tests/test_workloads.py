"""Workloads as text, and their tasks."""

import pytest

from cwm_jax.errors import WorkloadError
from cwm_jax.tvm_bridge.ansor.workloads import create_task
from cwm_jax.tvm_bridge.workloads import OPERATORS, Workload, operators_help, parse_workload


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operators_example_makes_a_task(tvm, name):
    workload = parse_workload(OPERATORS[name].example)
    assert isinstance(workload, Workload)
    task = create_task(tvm, workload, tvm.target.Target("llvm -num-cores=2"))
    assert task.workload_key.startswith(f'["{name}", ')
    assert task.compute_dag.flop_ct > 0
    assert OPERATORS[name].example in operators_help()


def test_flops_of_known_operators(tvm):
    def flop(text: str) -> float:
        return create_task(tvm, parse_workload(text), "llvm").compute_dag.flop_ct

    assert flop("matmul:64,32,16") == 2 * 64 * 32 * 16
    assert flop("conv2d:1,8,8,4,6,3,1,1") == 2 * 8 * 8 * 6 * 4 * 3 * 3
    assert flop("conv2d:1,8,8,4,6,3,1,1,NCHW") == 2 * 8 * 8 * 6 * 4 * 3 * 3
    assert flop("depthwise_conv2d:1,8,8,4,3,2,1") == 2 * 4 * 4 * 4 * 3 * 3


def test_options():
    def arguments(text: str) -> tuple[int | str, ...]:
        workload = parse_workload(text)
        assert isinstance(workload, Workload)
        return workload.arguments

    assert arguments("matmul:8,8,8") == (8, 8, 8, "float32")
    assert arguments("matmul:8,8,8,float16") == (8, 8, 8, "float16")
    assert arguments("conv2d:1,8,8,4,6,3,1,0,NCHW")[-1] == "NCHW"


def test_a_task_of_a_network_is_a_workload(tvm):
    tasks = [create_task(tvm, parse_workload(f"mlp:4#{at}"), "llvm") for at in (0, 1)]
    assert len({task.workload_key for task in tasks}) == 2
    with pytest.raises(WorkloadError, match="the network has"):
        create_task(tvm, parse_workload("mlp:4#99"), "llvm")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gemm:8,8,8", "unknown workload 'gemm', expected one of matmul"),
        ("matmul", "expected matmul:M,N,K"),
        ("matmul:8,8", "2 arguments, expected matmul:M,N,K"),
        ("matmul:8,8,8,float99", "4 arguments"),
        ("matmul:8,0,8", "N is '0', expected an integer >= 1"),
        ("matmul:8,-1,8", "N is '-1'"),
        ("matmul:8,x,8", "N is 'x'"),
        ("matmul:8,²,8", "N is '²'"),
        ("matmul:99999999999999999999,8,8", "M is"),
        ("matmul:1000000,1000000,1", "too large"),
        ("conv2d:1,4,4,8,8,7,1,1", "a kernel of 7 does not fit an image of 4x4"),
        ("conv2d:1,4,4,8,8,3,0,1", "STRIDE is '0'"),
        ("my.py:", "expected FILE.py:FUNCTION"),
        ("mlp#x", "expected NETWORK#N"),
        ("alexnet#1", "unknown network 'alexnet'"),
    ],
)
def test_bad_workloads(text, says):
    with pytest.raises(WorkloadError) as caught:
        parse_workload(text)
    assert says in str(caught.value)


OWN = """
from tvm import te

def scale(n, name):
    a = te.placeholder((n,), name=name)
    return [a, te.compute((n,), lambda i: a[i] * 3.0, name="out")]

def broken(n):
    return 7

def failing(n):
    raise KeyError("no")
"""


def test_a_users_own_function(tvm, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    workload = parse_workload(f"{file}:scale:64,data")
    assert workload == Workload("scale", (64, "data"), file)
    task = create_task(tvm, workload, "llvm")
    assert task.workload_key == '["mine.scale", 64, "data"]'
    assert task.compute_dag.flop_ct == 64


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("none.py:scale:1", "no such Python file"),
        ("mine.py:absent:1", "has no function 'absent'"),
        ("mine.py:broken:1", "expected it to return the TE tensors"),
        ("mine.py:failing:1", "cannot be built"),
        ("syntax.py:scale:1", "does not load"),
    ],
)
def test_a_users_bad_function(tvm, tmp_path, monkeypatch, text, says):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "syntax.py").write_text("def")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkloadError, match=says):
        create_task(tvm, parse_workload(text), "llvm")
