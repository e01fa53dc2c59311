"""Programs beyond matrix products: what Ansor tunes with another cost model, it tunes with ours."""

import math
import re
import warnings

import numpy as np
import pytest

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.tuning.ansor.sketch import Size, sketch_policy
from cwm_jax.tuning.ansor.tasks import why_not_tunable
from cwm_jax.tvm_bridge.ansor import WorldModelCostModel
from cwm_jax.tvm_bridge.ansor.cost_model import UnrankedTaskWarning
from cwm_jax.tvm_bridge.ansor.graphs import UnreadGraphWarning, graph_of_task

TARGET = "llvm -mcpu=core-avx2 -num-cores=2"


@pytest.fixture(scope="module")
def scorer():
    return Scorer.load("cpu-x86-2core")


def task_of(tvm, name, tensors):
    key = f'["{name}"]'
    tvm.auto_scheduler.workload_registry.register_workload_tensors(key, tensors, override=True)
    return tvm.auto_scheduler.SearchTask(workload_key=key, target=TARGET)


def searched(tvm, task, model):
    """States that a small search of Ansor leads to."""
    policy = sketch_policy(tvm, task, 1, model=model, size=Size(16, 1, 8))
    return list(policy.evolutionary_search(policy.sample_initial_population(), 4))


def reduction_of(graph) -> dict[str, int]:
    return {a.name: a.extent for stage in graph.stages for a in stage.axes if a.reduction}


def row_of_triangle(tvm):
    a = tvm.te.placeholder((64, 64), name="a")

    def row(i):
        k = tvm.te.reduce_axis((0, i + 1), name="k")
        return tvm.te.sum(a[i, k], axis=k)

    return [a, tvm.te.compute((64,), row, name="row")]


def clamped_by_data(tvm):
    a = tvm.te.placeholder((64, 64), name="a")
    n = tvm.te.placeholder((64,), name="n", dtype="int32")

    def row(i):
        k = tvm.te.reduce_axis((0, tvm.te.min(n[i], 10)), name="k")
        return tvm.te.sum(a[i, k], axis=k)

    return [a, n, tvm.te.compute((64,), row, name="row")]


def ragged(tvm):
    a = tvm.te.placeholder((16, 64), name="a")
    n = tvm.te.placeholder((16,), name="n", dtype="int32")

    def row(i):
        k = tvm.te.reduce_axis((0, n[i]), name="k")
        return tvm.te.sum(a[i, k], axis=k)

    return [a, n, tvm.te.compute((16,), row, name="row")]


def sparse_rows(tvm):
    placeholder = tvm.te.placeholder
    x = placeholder((16, 64), name="x")
    data = placeholder((160,), name="data")
    indices = placeholder((160,), name="indices", dtype="int32")
    pointers = placeholder((33,), name="pointers", dtype="int32")
    return [x, data, indices, pointers, tvm.topi.nn.sparse_dense(x, data, indices, pointers)]


def adaptive_pool(tvm):
    a = tvm.te.placeholder((1, 8, 16, 16), name="a")
    return [a, tvm.topi.nn.adaptive_pool(a, (5, 5), "avg")]


@pytest.mark.parametrize(
    ("make", "extents"),
    [
        (row_of_triangle, {"k": 33}),  # 1 to 64 with the same weight, on random points
        (clamped_by_data, {"k": 5}),
        (ragged, {"k": 32}),
        (sparse_rows, {"elem_idx": 5}),  # 160 elements in 32 rows
        (adaptive_pool, {"rv0": 4, "rv1": 4}),
    ],
)
def test_extents_that_are_not_constant_are_estimated(tvm, make, extents):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = graph_of_task(tvm, task_of(tvm, make.__name__, make(tvm)))
    assert reduction_of(graph) == extents


def test_a_triangle_is_searched(tvm, scorer):
    task = task_of(tvm, "triangle", row_of_triangle(tvm))
    model = WorldModelCostModel(scorer)
    states = searched(tvm, task, model)
    scores = model.predict(task, states)
    assert len(states) > 1
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) == len(states)


def unknown_extent(tvm):
    a = tvm.te.placeholder((16, tvm.te.var("n")), name="a")
    k = tvm.te.reduce_axis((0, a.shape[1]), name="k")
    return [a, tvm.te.compute((16,), lambda i: tvm.te.sum(a[i, k], axis=k), name="row")]


def test_a_graph_that_cannot_be_read_costs_only_the_graph(tvm, scorer):
    """One model serves the tasks of a search: the others keep their graphs."""
    model = WorldModelCostModel(scorer)
    strange = task_of(tvm, "strange", unknown_extent(tvm))
    with pytest.warns(UnreadGraphWarning, match=r'"strange".*the shape \[16, n\]') as caught:
        states = searched(tvm, strange, model)
        scores = model.predict(strange, states)
    assert len(caught) == 1
    assert len(np.unique(scores)) == len(states) > 1
    assert model.graph(strange).shape_only
    assert not model.graph(task_of(tvm, "plain", row_of_triangle(tvm))).shape_only


def plus_one(tvm, tensor, name):
    return tvm.te.compute(tensor.shape, lambda *at: tensor(*at) + 1.0, name=name)


def test_schedules_beyond_the_model_score_alike(tvm, scorer):
    tensor = first = tvm.te.placeholder((4, 4), name="first")
    for at in range(130):
        tensor = plus_one(tvm, tensor, f"t{at}")
    task = task_of(tvm, "long", [first, tensor])
    model = WorldModelCostModel(scorer)
    policy = sketch_policy(tvm, task, 1, size=Size(1, 1, 1))
    states = list(policy.sample_initial_population())
    with pytest.warns(UnrankedTaskWarning, match='"long".*at most 120 stages') as caught:
        scores = [model.predict(task, states) for _ in range(2)]
    assert len(caught) == 1
    assert not np.any(scores)
    # Its measurements are passed over, too.
    measure = tvm.auto_scheduler.measure
    result = measure.MeasureResult([1e-3], 0, "", 0.1, 0)
    model.update([measure.MeasureInput(task, states[0])], [result])
    assert not model.predict(task, states).any()


def two_outputs_of_which_one_is_inlined(tvm):
    a = tvm.te.placeholder((8,), name="a")
    x, y = tvm.te.compute((8,), lambda i: (a[i] + 1.0, a[i] * 2.0), name="two")
    return [a, tvm.te.compute((8,), lambda i: x[i] + y[i], name="sum")]


def two_outputs_inlined_into_a_product(tvm):
    a = tvm.te.placeholder((8, 8), name="a")
    x, y = tvm.te.compute((8, 8), lambda i, j: (a[i, j] + 1.0, a[i, j] * 2.0), name="two")
    k = tvm.te.reduce_axis((0, 8), name="k")
    out = tvm.te.compute((8, 8), lambda i, j: tvm.te.sum(x[i, k] * y[k, j], axis=k), name="out")
    return [a, out]


def triangle_times_matrix(tvm):
    a, b = (tvm.te.placeholder((16, 16), name=name) for name in "ab")

    def entry(i, j):
        k = tvm.te.reduce_axis((0, i + 1), name="k")
        return tvm.te.sum(a[i, k] * b[k, j], axis=k)

    return [a, b, tvm.te.compute((16, 16), entry, name="out")]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (two_outputs_of_which_one_is_inlined, "inline"),  # TVM would draw for ever
        (two_outputs_inlined_into_a_product, "would inline 'two', which computes several"),
        (triangle_times_matrix, "tile a loop whose extent is not constant"),
        (unknown_extent, r"'a' has the shape \[16, n\], expected constants"),
        (lambda tvm: [tvm.te.placeholder((8,), name="a")], "it computes nothing"),
    ],
)
def test_what_ansor_cannot_tune_is_known_before(tvm, make, says):
    reason = why_not_tunable(tvm, task_of(tvm, "untunable", make(tvm)))
    assert reason is not None
    assert re.search(says, reason)


def unary(tvm, dtype, shape=(8, 8)):
    a = tvm.te.placeholder(shape, name="a", dtype=dtype)
    return [a, tvm.te.compute(shape, lambda *at: a(*at), name="copied")]


def scalar_mean(tvm):
    a = tvm.te.placeholder((8, 8), name="a")
    return [a, tvm.topi.divide(tvm.topi.sum(a), 64.0)]


def pairs(tvm):
    a = tvm.te.placeholder((8, 16), name="a")
    return [a, tvm.topi.argmax(a, axis=1)]


def gathered_by_a_scalar(tvm):
    a = tvm.te.placeholder((8,), name="a")
    at = tvm.te.placeholder((), name="at", dtype="int32")
    return [a, at, tvm.te.compute((), lambda: a[tvm.te.max(0, at())], name="one")]


@pytest.mark.parametrize(
    "make",
    [
        scalar_mean,
        pairs,
        gathered_by_a_scalar,
        *(
            lambda tvm, dtype=dtype: unary(tvm, dtype)
            for dtype in ("bool", "uint8", "float16", "bfloat16", "float64", "int64", "float32x4")
        ),
        lambda tvm: unary(tvm, "float32", (0, 8)),
        lambda tvm: unary(tvm, "float32", (tvm.tir.const(8, "int64"),)),
        lambda tvm: unary(tvm, "float32", (2**20, 2**10)),
        lambda tvm: unary(tvm, "float32", (2,) * 9),
    ],
)
def test_unusual_programs_are_read_and_ranked(tvm, scorer, make):
    task = task_of(tvm, "unusual", make(tvm))
    assert why_not_tunable(tvm, task) is None
    model = WorldModelCostModel(scorer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = model.graph(task)
        states = searched(tvm, task, model)
        assert np.isfinite(model.predict(task, states)).all()
    assert not graph.shape_only
    assert all(math.isfinite(count) for stage in graph.stages for count in stage.operations)
