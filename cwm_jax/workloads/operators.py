"""The operators that a workload can name, and their TE computations.

The list holds what users tune by hand and the operators of the Ansor paper (OSDI'20, section
7.1): C1D C2D C3D GMM GRP DIL DEP T2D CAP NRM, ConvLayer and TBG.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from cwm_jax.workloads.convolutions import (
    LAYOUTS,
    Shapes,
    capsule_conv2d,
    conv1d,
    conv2d,
    conv2d_shapes,
    conv3d,
    depthwise_conv2d,
    dilated_conv2d,
    group_conv2d,
    image,
    transposed_conv2d,
)

_DTYPES = ("float32", "float16", "float64")
_ONLY_FLOAT32 = ("float32",)
_DEPTHWISE = ("N", "H", "W", "C", "KERNEL", "STRIDE", "PADDING")


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator that can be named on the command line.

    Attributes:
        numbers: Names of its integer arguments.
        option: Values of an optional last argument; the first one is the default.
        meaning: One line of help.
        example: A workload.
        shapes: Integer arguments -> shapes of the tensors it holds, to check their sizes.
        compute: TVM, the integer arguments and the option -> input and output TE tensors.
    """

    numbers: tuple[str, ...]
    option: tuple[str, ...]
    meaning: str
    example: str
    shapes: Callable[..., Shapes]
    compute: Callable[..., list[Any]]


def _matmul(tvm: Any, m: int, n: int, k: int, dtype: str) -> list[Any]:
    te = tvm.te
    left = te.placeholder((m, k), dtype, name="A")
    right = te.placeholder((k, n), dtype, name="B")
    inner = te.reduce_axis((0, k), name="k")
    out = te.compute(
        (m, n), lambda i, j: te.sum(left[i, inner] * right[inner, j], axis=inner), name="C"
    )
    return [left, right, out]


def _dense(tvm: Any, batch: int, inputs: int, outputs: int, dtype: str) -> list[Any]:
    data = tvm.te.placeholder((batch, inputs), dtype, name="data")
    weight = tvm.te.placeholder((outputs, inputs), dtype, name="weight")
    return [data, weight, tvm.topi.nn.dense(data, weight)]


def _batch_matmul(tvm: Any, batch: int, m: int, n: int, k: int, dtype: str) -> list[Any]:
    left = tvm.te.placeholder((batch, m, k), dtype, name="A")
    right = tvm.te.placeholder((batch, k, n), dtype, name="B")
    out = tvm.topi.nn.batch_matmul(left, right, transpose_a=False, transpose_b=False)
    return [left, right, out]


def _transpose_batch_matmul(
    tvm: Any, batch: int, length: int, heads: int, width: int, dtype: str
) -> list[Any]:
    te = tvm.te
    query = te.placeholder((batch, length, heads, width), dtype, name="query")
    value = te.placeholder((batch, length, heads, width), dtype, name="value")
    turned_query = te.compute(
        (batch, heads, length, width), lambda b, h, i, d: query[b, i, h, d], name="query_T"
    )
    turned_value = te.compute(
        (batch, heads, width, length), lambda b, h, d, j: value[b, j, h, d], name="value_T"
    )
    inner = te.reduce_axis((0, width), name="k")
    out = te.compute(
        (batch, heads, length, length),
        lambda b, h, i, j: te.sum(
            turned_query[b, h, i, inner] * turned_value[b, h, inner, j], axis=inner
        ),
        name="C",
    )
    return [query, value, out]


def _norm(tvm: Any, batch: int, rows: int, columns: int, dtype: str) -> list[Any]:
    te = tvm.te
    data = te.placeholder((batch, rows, columns), dtype, name="data")
    i, j = te.reduce_axis((0, rows), name="i"), te.reduce_axis((0, columns), name="j")
    squares = te.compute(
        (batch,), lambda b: te.sum(data[b, i, j] * data[b, i, j], axis=[i, j]), name="squares"
    )
    return [data, te.compute((batch,), lambda b: te.sqrt(squares[b]), name="norm")]


def _softmax(tvm: Any, rows: int, columns: int, dtype: str) -> list[Any]:
    data = tvm.te.placeholder((rows, columns), dtype, name="data")
    return [data, tvm.topi.nn.softmax(data)]


_CONV2D = ("N", "H", "W", "CI", "CO", "KERNEL", "STRIDE", "PADDING")
OPERATORS: dict[str, Operator] = {
    "matmul": Operator(
        ("M", "N", "K"),
        _DTYPES,
        "[M,K] x [K,N]",
        "matmul:512,512,512",
        lambda m, n, k: [(m, k), (k, n), (m, n)],
        _matmul,
    ),
    "dense": Operator(
        ("BATCH", "IN", "OUT"),
        _DTYPES,
        "fully connected layer: [BATCH,IN] x [OUT,IN] transposed",
        "dense:16,768,1024",
        lambda b, i, o: [(b, i), (o, i), (b, o)],
        _dense,
    ),
    "batch_matmul": Operator(
        ("BATCH", "M", "N", "K"),
        _DTYPES,
        "[BATCH,M,K] x [BATCH,K,N]",
        "batch_matmul:12,128,128,64",
        lambda b, m, n, k: [(b, m, k), (b, k, n), (b, m, n)],
        _batch_matmul,
    ),
    "transpose_batch_matmul": Operator(
        ("BATCH", "LENGTH", "HEADS", "WIDTH"),
        _DTYPES,
        "attention scores: [BATCH,LENGTH,HEADS,WIDTH] twice, transposed, then multiplied",
        "transpose_batch_matmul:1,128,12,64",
        lambda b, t, h, d: [(b, t, h, d), (b, h, t, t)],
        _transpose_batch_matmul,
    ),
    "conv1d": Operator(
        ("N", "LENGTH", "CI", "CO", "KERNEL", "STRIDE", "PADDING"),
        _ONLY_FLOAT32,
        "1-D convolution",
        "conv1d:1,256,64,128,3,2,1",
        lambda n, t, i, o, k, s, p: [*image(n, (t,), max(i, o), k, s, p), (k, i, o)],
        conv1d,
    ),
    "conv2d": Operator(
        _CONV2D,
        LAYOUTS,
        "2-D convolution of N images of H x W x CI, square kernel",
        "conv2d:1,56,56,64,64,3,1,1",
        conv2d_shapes,
        conv2d,
    ),
    "conv2d_bias_relu": Operator(
        _CONV2D,
        LAYOUTS,
        "2-D convolution, bias, ReLU",
        "conv2d_bias_relu:1,56,56,64,64,3,1,1",
        conv2d_shapes,
        functools.partial(conv2d, bias=True),
    ),
    "dilated_conv2d": Operator(
        (*_CONV2D, "DILATION"),
        LAYOUTS,
        "2-D convolution whose kernel has gaps",
        "dilated_conv2d:1,56,56,64,64,3,1,2,2",
        lambda n, h, w, i, o, k, s, p, d: [
            *image(n, (h, w), max(i, o), (k - 1) * max(d, 1) + 1, s, p),
            (k, k, i, o),
        ],
        dilated_conv2d,
    ),
    "group_conv2d": Operator(
        (*_CONV2D, "GROUPS"),
        LAYOUTS,
        "2-D convolution of GROUPS groups of channels, each by itself",
        "group_conv2d:1,56,56,64,64,3,1,1,4",
        conv2d_shapes,
        group_conv2d,
    ),
    "depthwise_conv2d": Operator(
        _DEPTHWISE,
        LAYOUTS,
        "2-D convolution of each channel by itself",
        "depthwise_conv2d:1,112,112,32,3,1,1",
        lambda n, h, w, c, k, s, p: image(n, (h, w), c, k, s, p),
        depthwise_conv2d,
    ),
    "transposed_conv2d": Operator(
        _CONV2D,
        ("NCHW",),
        "2-D transposed convolution (deconvolution)",
        "transposed_conv2d:1,4,4,512,256,4,2,1",
        lambda n, h, w, i, o, k, s, p: [
            (n, (h - 1) * s + k, (w - 1) * s + k, max(i, o)),
            (k, k, i, o),
        ],
        transposed_conv2d,
    ),
    "conv3d": Operator(
        ("N", "D", *_CONV2D[1:]),
        ("NDHWC",),
        "3-D convolution, cubic kernel",
        "conv3d:1,16,28,28,64,64,3,1,1",
        lambda n, d, h, w, i, o, k, s, p: [
            *image(n, (d, h, w), max(i, o), k, s, p),
            (k, k, k, i, o),
        ],
        conv3d,
    ),
    "capsule_conv2d": Operator(
        (*_CONV2D, "CAPSULE"),
        _ONLY_FLOAT32,
        "2-D convolution whose pixels are CAPSULE x CAPSULE matrices",
        "capsule_conv2d:1,16,16,32,32,3,2,1,4",
        lambda n, h, w, i, o, k, s, p, c: [
            *image(n, (h, w), max(i, o) * c * c, k, s, p),
            (k, k, c, c, i, o),
        ],
        capsule_conv2d,
    ),
    "norm": Operator(
        ("BATCH", "ROWS", "COLUMNS"),
        _DTYPES,
        "Frobenius norm of BATCH matrices",
        "norm:1,256,256",
        lambda b, m, n: [(b, m, n)],
        _norm,
    ),
    "softmax": Operator(
        ("ROWS", "COLUMNS"),
        _DTYPES,
        "softmax over the columns of each row",
        "softmax:1024,1024",
        lambda rows, columns: [(rows, columns)],
        _softmax,
    ),
}
