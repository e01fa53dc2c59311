"""Repairs of TVM while networks are lowered: dense layers with packed weights.

Ansor packs a weight in the order in which the loops of the best schedule read it
(`src/auto_scheduler/compute_dag.cc`, `RewriteLayout`). It finds an axis again by its name up to
the first digit. Since `topi.nn.matmul` names its axes `i0` and `i1`, every candidate of a dense
layer fails to build. The packed side of the same function expects `i` and `j`; it takes the length
of a tensor and the packed extents for batch extents, so a tuned network does not build either.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_BATCH_NAMES = ("b", "c", "d", "e")


class _NamedAxes:
    """`tvm.te`, but a computation over anonymous indices names them `..., b, i, j`."""

    def __init__(self, te: Any) -> None:
        self._te = te

    def __getattr__(self, name: str) -> Any:
        return getattr(self._te, name)

    def compute(self, shape: Any, function: Any, *args: Any, **options: Any) -> Any:
        anonymous = function.__code__.co_argcount == 0
        if anonymous and 2 <= len(shape) <= 2 + len(_BATCH_NAMES):
            options.setdefault("varargs_names", [*_BATCH_NAMES[: len(shape) - 2], "i", "j"])
        return self._te.compute(shape, function, *args, **options)


@contextmanager
def packed_dense_layers(tvm: Any) -> Iterator[None]:
    """Lets Relay's dense layers be tuned and built with packed weights."""
    module: Any = sys.modules[f"{tvm.__name__}.topi.nn.dense"]
    te, matmul = module.te, module.matmul

    def repaired(
        tensor_a: Any,
        tensor_b: Any,
        bias: Any = None,
        out_dtype: str | None = None,
        transpose_a: bool = False,
        transpose_b: bool = False,
        auto_scheduler_rewritten_layout: str = "",
        meta_schedule_original_shape: Any = None,
    ) -> Any:
        if auto_scheduler_rewritten_layout and not transpose_a and transpose_b and bias is None:
            layout = auto_scheduler_rewritten_layout
            return _packed_dense(tvm, tensor_a, tensor_b, out_dtype, layout)
        arguments = tensor_a, tensor_b, bias, out_dtype, transpose_a, transpose_b
        return matmul(*arguments, auto_scheduler_rewritten_layout, meta_schedule_original_shape)

    module.te, module.matmul = _NamedAxes(te), repaired
    try:
        yield
    finally:
        module.te, module.matmul = te, matmul


def _packed_dense(tvm: Any, data: Any, weight: Any, out_dtype: str | None, layout: str) -> Any:
    """The computation of `topi.nn.dense`, reading a weight that is packed as `layout` says."""
    ansor, te = tvm.auto_scheduler, tvm.te
    outputs, inputs = ansor.get_shape_from_rewritten_layout(layout, ["j", "k"])
    ansor.remove_index_check(weight)
    dtype = out_dtype or data.dtype
    k = te.reduce_axis((0, inputs), name="k")
    product = te.compute(
        (data.shape[0], outputs),
        lambda i, j: te.sum(data[i, k].astype(dtype) * weight[j, k].astype(dtype), axis=k),
        name="T_matmul_NT",
        tag="dense",
        attrs={"layout_free_placeholders": [weight]},
    )
    return ansor.rewrite_compute_body(product, layout)
