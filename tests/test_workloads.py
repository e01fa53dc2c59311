"""Workloads as text, and their tasks."""

import pytest

from cwm_jax.errors import WorkloadError
from cwm_jax.tuning.ansor.tasks import create_task
from cwm_jax.workloads.parse import OPERATORS, Workload, operators_help, parse_workload


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
        ("my.py:f:99999999999999999999", "no integer that TVM can hold"),
        (f"my.py:f:-{'9' * 5000}", "no integer that TVM can hold"),
    ],
)
def test_bad_workloads(text, says):
    with pytest.raises(WorkloadError) as caught:
        parse_workload(text)
    assert says in str(caught.value)


OWN = """
from tvm import te, topi

def scale(n, name):
    a = te.placeholder((n,), name=name)
    return [a, te.compute((n,), lambda i: a[i] * 3.0, name="out")]

def broken(n):
    return 7

def failing(n):
    raise KeyError("no")

def leaving():
    raise SystemExit(0)

def nested():
    return [scale(8, "a")]

def copied(n):
    a = te.placeholder((n,), name="a")
    return [a, te.compute((n,), lambda i: a[i], name="out")]

def dynamic():
    return copied(te.var("n"))

def sorted_rows():
    a = te.placeholder((8, 64), name="a")
    return [a, topi.argsort(a)]

def scanned():
    x, state = te.placeholder((4, 8), name="x"), te.placeholder((4, 8), name="state")
    first = te.compute((1, 8), lambda _, i: x[0, i])
    update = te.compute((4, 8), lambda t, i: state[t - 1, i] + x[t, i])
    return [x, te.scan(first, update, state, inputs=[x])]

def unlisted():
    return copied(8)[1:]

def unbound():
    a, by = te.placeholder((8,), name="a"), te.var("by", "float32")
    return [a, te.compute((8,), lambda i: a[i] * by, name="out")]

def twice():
    a = te.placeholder((8,), name="a")
    x, y = te.compute((8,), lambda i: (a[i] + 1.0, a[i] * 2.0), name="two")
    return [a, te.compute((8,), lambda i: x[i] + y[i], name="out")]
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
        ("mine.py:leaving", r"mine.py:leaving: cannot be built \(SystemExit: 0\)"),
        ("mine.py:copied", "missing 1 required positional argument"),
        ("mine.py:copied:x", "mine.py:copied:x: cannot be built"),
        ("mine.py:copied:-5", r"'a' has the shape \[-5\]"),
        ("mine.py:nested", "got a list of list"),
        ("mine.py:dynamic", r"'a' has the shape \[n\], expected constants"),
        ("mine.py:sorted_rows", r"Ansor cannot tune it \(.*extern\(argsort_cpu\)\)$"),
        ("mine.py:scanned", r"Ansor cannot tune it \(.*scan\(scan\)\)$"),
        ("mine.py:unlisted", "the input 'a' is not among the tensors"),
        ("mine.py:unbound", r"cannot compile it .*\[by\]"),
        ("mine.py:twice", "would inline 'two'"),
        ("syntax.py:scale:1", "does not load .*SyntaxError"),
        ("importing.py:scale:1", "does not load .*nosuchmodule"),
        ("leaving.py:scale:1", "does not load .*SystemExit"),
    ],
)
def test_a_users_bad_function(tvm, tmp_path, monkeypatch, text, says):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "syntax.py").write_text("def")
    (tmp_path / "importing.py").write_text("import nosuchmodule")
    (tmp_path / "leaving.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkloadError, match=says) as caught:
        create_task(tvm, parse_workload(text), "llvm")
    assert "\n" not in str(caught.value)
