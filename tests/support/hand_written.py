"""Functions and schedules as users write them, which MetaSchedule tunes as it does operators."""

from collections.abc import Callable
from typing import Any

from cwm_jax.tvm_bridge.runtime import use

tvm: Any = use("metaschedule")
from tvm import te, tirx, topi  # noqa: E402
from tvm.script import tirx as T  # noqa: E402, N812

Make = Callable[[], Any]


def of_tensors(*shapes: Any, dtypes: Any = (), compute: Callable[..., Any]) -> Make:
    """Returns what makes a module of an expression over placeholders."""

    def make() -> Any:
        names = [*dtypes, *["float32"] * (len(shapes) - len(dtypes))]
        inputs = [
            te.placeholder(shape, dtype, name=f"x{at}")
            for at, (shape, dtype) in enumerate(zip(shapes, names, strict=True))
        ]
        found = compute(*inputs)
        several = isinstance(found, (list, tuple)) or type(found).__name__ == "Array"
        return tvm.IRModule(
            {"main": te.create_prim_func([*inputs, *(found if several else [found])])}
        )

    return make


def _sums(x: Any) -> Any:
    k = te.reduce_axis((0, 64), name="k")
    both = te.comm_reducer(
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        lambda *_: (tirx.const(0.0, "float32"), tirx.const(0.0, "float32")),
    )
    return list(te.compute((16,), lambda i: both((x[i, k], x[i, k] * x[i, k]), axis=k)))


def _long_product(a: Any, b: Any) -> Any:
    k = te.reduce_axis((0, tirx.IntImm("int64", 32)), name="k")
    shape = (tirx.IntImm("int64", 16), tirx.IntImm("int64", 8))
    return te.compute(shape, lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")


MATRIX = (16, 64)
OPERATORS: dict[str, Make] = {
    "argmax": of_tensors(MATRIX, compute=lambda x: topi.argmax(x, axis=1)),
    "argmin of relu": of_tensors(MATRIX, compute=lambda x: topi.argmin(topi.nn.relu(x), axis=0)),
    "argmax of all": of_tensors(MATRIX, compute=topi.argmax),
    "sums of a tuple": of_tensors(MATRIX, compute=_sums),
    "group_norm": of_tensors(
        (1, 8, 6, 6), (8,), (8,), compute=lambda x, a, b: topi.nn.group_norm(x, a, b, 2, 1, [2, 3])
    ),
    "two outputs": of_tensors(MATRIX, compute=lambda x: topi.split(x, 2, 1)),
    "mean to a scalar": of_tensors(MATRIX, compute=lambda x: topi.sum(x) / 1024.0),
    "scalar": of_tensors((), compute=lambda x: x + 1.0),
    "topk": of_tensors(MATRIX, compute=lambda x: topi.topk(x, k=4, axis=1)),
    "relu of sort": of_tensors(MATRIX, compute=lambda x: topi.nn.relu(topi.sort(x, axis=1))),
    "cumsum": of_tensors(MATRIX, compute=lambda x: topi.cumsum(x, axis=1)),
    "scatter": of_tensors(
        MATRIX,
        (16, 4),
        (16, 4),
        dtypes=("float32", "int64", "float32"),
        compute=lambda x, at, new: topi.scatter_elements(x, at, new, 1),
    ),
    "int64": of_tensors((16, 32), (32, 8), compute=_long_product),
    "bfloat16": of_tensors((16, 32), (32, 8), dtypes=("bfloat16",) * 2, compute=topi.matmul),
    "bool": of_tensors(MATRIX, MATRIX, dtypes=("bool",) * 2, compute=topi.logical_and),
    "larger than 2^31": of_tensors((70000, 70000), compute=topi.exp),
}


def product_of(loops: Any) -> Any:
    """Returns a matrix product, with what is given as its function."""
    return tvm.IRModule({"main": loops})


def k_outermost() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((32, 64)), b: T.Buffer((64, 16)), c: T.Buffer((32, 16))):
        for k, j, i in T.grid(64, 16, 32):
            with T.sblock("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    c[vi, vj] = 0.0
                c[vi, vj] = c[vi, vj] + a[vi, vk] * b[vk, vj]

    return product_of(main)


def fused() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((32, 64)), b: T.Buffer((64, 16)), c: T.Buffer((32, 16))):
        for both in T.parallel(512):
            for k in range(64):
                with T.sblock("C"):
                    vi = T.axis.spatial(32, both // 16)
                    vj = T.axis.spatial(16, both % 16)
                    vk = T.axis.reduce(64, k)
                    with T.init():
                        c[vi, vj] = 0.0
                    c[vi, vj] = c[vi, vj] + a[vi, vk] * b[vk, vj]

    return product_of(main)


def tiled() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((30, 64)), b: T.Buffer((64, 16)), c: T.Buffer((30, 16))):
        for i0, j0, k, i1 in T.grid(4, 2, 64, 8):
            for j1 in T.vectorized(8):
                with T.sblock("C"):
                    vi = T.axis.spatial(30, i0 * 8 + i1)
                    vj = T.axis.spatial(16, j0 * 8 + j1)
                    vk = T.axis.reduce(64, k)
                    T.where(i0 * 8 + i1 < 30)
                    with T.init():
                        c[vi, vj] = 0.0
                    c[vi, vj] = c[vi, vj] + a[vi, vk] * b[vk, vj]

    return product_of(main)


def repeated() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((1, 32)), c: T.Buffer((1, 32))):
        for _, j in T.grid(4, 32):
            with T.sblock("C"):
                vi = T.axis.spatial(1, 0)
                vj = T.axis.spatial(32, j)
                c[vi, vj] = a[vi, vj] + 1.0

    return product_of(main)


def transposed() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((32, 64)), c: T.Buffer((64, 32))):
        for i in T.unroll(32):
            for j in range(64):
                with T.sblock("C"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    c[vj, vi] = a[vi, vj]

    return product_of(main)


LOOPS: dict[str, Make] = {
    "k outermost": k_outermost,
    "fused": fused,
    "tiled": tiled,
    "repeated": repeated,
    "transposed": transposed,
}


def conditions() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((32, 64)), c: T.Buffer((32,))):
        for i, k in T.grid(32, 64):
            with T.sblock("C"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    c[vi] = 0.0
                if vk <= vi:
                    c[vi] = c[vi] + a[vi, vk]

    return product_of(main)


def let_and_local() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((32, 64)), c: T.Buffer((32, 64))):
        for i, j in T.grid(32, 64):
            with T.sblock("C"):
                vi, vj = T.axis.remap("SS", [i, j])
                local = T.sblock_alloc_buffer((1,), "float32")
                twice: T.let[T.float32] = a[vi, vj] * 2.0
                local[0] = twice * twice
                c[vi, vj] = local[0] + 1.0

    return product_of(main)


def matched_and_while() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((32, 64)), c: T.Buffer((32, 64))):
        for i in range(32):
            with T.sblock("C"):
                vi = T.axis.spatial(32, i)
                T.reads(a[vi, 0:64])
                T.writes(c[vi, 0:64])
                row = T.match_buffer(a[vi, 0:64], (64,), "float32", offset_factor=1)
                for j in range(64):
                    c[vi, j] = row[j]
                    while c[vi, j] > 10.0:
                        c[vi, j] = c[vi, j] * 0.5

    return product_of(main)


def nested() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((32, 64)), c: T.Buffer((32,))):
        for i in range(4):
            with T.sblock("outer"):
                vo = T.axis.spatial(4, i)
                for j, k in T.grid(8, 64):
                    with T.sblock("inner"):
                        vi, vk = T.axis.remap("SR", [j, k])
                        with T.init():
                            c[vo * 8 + vi] = 0.0
                        c[vo * 8 + vi] = c[vo * 8 + vi] + a[vo * 8 + vi, vk]

    return product_of(main)


def vectors() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((64,)), c: T.Buffer((64,))):
        for i in range(16):
            with T.sblock("C"):
                vi = T.axis.spatial(16, i)
                c[T.Ramp(vi * 4, 1, 4)] = a[T.Ramp(vi * 4, 1, 4)] * T.Broadcast(T.float32(2), 4)

    return product_of(main)


BODIES: dict[str, Make] = {
    "conditions": conditions,
    "let and local": let_and_local,
    "matched and while": matched_and_while,
    "nested": nested,
    "vectors": vectors,
}


def no_block() -> Any:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((32,)), c: T.Buffer((32,))):
        for i in range(32):
            c[i] = a[i] + 1.0

    return product_of(main)


def explicit_root() -> Any:
    """TVM itself finds no design space for it."""

    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((32,)), c: T.Buffer((32,))):
        with T.sblock("root"):
            T.reads(a[0:32])
            T.writes(c[0:32])
            for i in range(32):
                with T.sblock("C"):
                    vi = T.axis.spatial(32, i)
                    c[vi] = a[vi] + 1.0

    return product_of(main)


def varying() -> Any:
    """Extents that depend on an outer loop and on a parameter: TVM finds no candidate."""

    @T.prim_func(s_tir=True)
    def main(a: T.handle, c: T.handle, n: T.int32):
        x = T.match_buffer(a, (n, 32), "float32")
        y = T.match_buffer(c, (n,), "float32")
        for i in range(n):
            for k in range(32):
                with T.sblock("C"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    with T.init():
                        y[vi] = 0.0
                    y[vi] = y[vi] + x[vi, vk]

    return product_of(main)


def matmul_bias() -> Any:
    a, b = te.placeholder((32, 64), name="a"), te.placeholder((64, 16), name="b")
    bias, k = te.placeholder((32, 16), name="bias"), te.reduce_axis((0, 64), name="k")
    c = te.compute((32, 16), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    d = te.compute((32, 16), lambda i, j: c[i, j] + bias[i, j], name="D")
    return tvm.IRModule({"main": te.create_prim_func([a, b, bias, d])})


def padded() -> Any:
    x, w = te.placeholder((1, 8, 14, 14), name="x"), te.placeholder((16, 8, 3, 3), name="w")
    return tvm.IRModule({"main": te.create_prim_func([x, w, topi.nn.conv2d_nchw(x, w, 1, 1, 1)])})


def _decompose(s: Any) -> None:
    block = s.get_sblock("C", "main")
    i, j, k = s.get_loops(block)
    outer, inner = s.split(i, s.sample_perfect_tile(i, 2))
    s.reorder(outer, k, inner, j)
    s.vectorize(j)
    s.parallel(outer)
    init = s.decompose_reduction(block, k)
    s.vectorize(s.get_loops(init)[-1])
    s.unroll(s.get_loops(s.get_sblock("C_init", "main"))[1])
    s.annotate(s.get_loops(s.get_sblock("C_update", "main"))[1], "mine", 1)


def _epilogue(s: Any) -> None:
    s.fuse_reduction_epilogue(s.get_sblock("C", "main"), s.get_sblock("D", "main"))
    (i, *_) = s.get_loops(s.get_sblock("C", "main"))
    s.split(i, s.sample_perfect_tile(i, 2))


def _rfactor(s: Any) -> None:
    block = s.get_sblock("C", "main")
    k = s.get_loops(block)[-1]
    outer, _ = s.split(k, s.sample_perfect_tile(k, 2))
    s.parallel(s.get_loops(s.rfactor(outer, 0))[0])
    final = s.get_sblock("C", "main")
    init = s.decompose_reduction(final, s.get_loops(final)[-1])
    s.annotate(init, "mine", 1)


def _pad(s: Any) -> None:
    block = s.get_sblock("C", "main")
    s.pad_einsum(block, [7, 5, 3])
    for other in (*s.get_producers(block), *s.get_consumers(block)):
        s.parallel(s.get_loops(other)[0])


def _padding(s: Any) -> None:
    block = s.get_sblock("pad_temp", "main")
    s.parallel(s.get_loops(s.decompose_padding(block, s.get_loops(block)[0]))[1])
    s.unroll(s.get_loops(s.get_sblock("pad_temp_pad_const", "main"))[2])


def _caches(s: Any) -> None:
    block, last = s.get_sblock("C", "main"), s.get_sblock("D", "main")
    read = s.reindex_cache_read(block, 0, "global", lambda i, j, k: (k, i))
    s.parallel(s.get_loops(read)[0])
    s.annotate(s.read_at(s.get_loops(last)[0], last, 1, "shared"), "mine", 1)


def _partition(s: Any) -> None:
    block, last = s.get_sblock("C", "main"), s.get_sblock("D", "main")
    s.transform_block_layout(last, lambda i, j: (i * 16 + j,))
    (flat,) = s.get_loops(last)
    s.split(flat, s.sample_perfect_tile(flat, 3))
    for loop in s.loop_partition(s.get_loops(block)[0], [None, 8, 16]):
        s.annotate(loop, "mine", 1)


def _children(s: Any) -> None:
    (i, *_) = s.get_loops(s.get_sblock("C", "main"))
    for block in (*s.get_child_blocks(s.get_sblock("root", "main")), *s.get_child_blocks(i)):
        s.annotate(block, f"mine{block}"[:5], 1)


SCHEDULES: dict[str, tuple[Make, Callable[[Any], None]]] = {
    "decompose_reduction": (matmul_bias, _decompose),
    "fuse_reduction_epilogue": (matmul_bias, _epilogue),
    "rfactor": (matmul_bias, _rfactor),
    "pad_einsum": (matmul_bias, _pad),
    "decompose_padding": (padded, _padding),
    "caches": (matmul_bias, _caches),
    "partition": (matmul_bias, _partition),
    "child blocks": (matmul_bias, _children),
}
"""Module and what is done to it, by what is tried."""
