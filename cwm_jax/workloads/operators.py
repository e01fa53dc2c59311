"""The operators that a workload can name, and their TE computations.

The list holds what users tune by hand and the operators of the Ansor paper (OSDI'20, section
7.1): C1D C2D C3D GMM GRP DIL DEP T2D CAP NRM, ConvLayer and TBG.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from cwm_jax.errors import WorkloadError

_DTYPES = ("float32", "float16", "float64")
_LAYOUTS = ("NHWC", "NCHW")
_ONLY_FLOAT32 = ("float32",)

Shapes = list[tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator that can be named on the command line.

    Attributes:
        numbers: Names of its integer arguments.
        option: What an optional last argument may be; its first entry is the default.
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


def _window(sides: Sequence[int], kernel: int, stride: int, padding: int) -> tuple[int, ...]:
    """Output extents of a convolution; `kernel` counts the gaps of a dilated one."""
    if kernel > min(sides) + 2 * padding:
        shown = "x".join(map(str, sides))
        raise WorkloadError(
            f"a kernel of {kernel} does not fit an image of {shown} padded by {padding}"
        )
    return tuple((side + 2 * padding - kernel) // stride + 1 for side in sides)


def _image(
    n: int, sides: Sequence[int], channels: int, kernel: int, stride: int, padding: int
) -> Shapes:
    out = _window(sides, kernel, stride, padding)
    return [(n, *(side + 2 * padding for side in sides), channels), (n, *out, channels)]


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


def _conv1d(
    tvm: Any,
    n: int,
    length: int,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    _: str,
) -> list[Any]:
    data = tvm.te.placeholder((n, length, inputs), name="data")
    weight = tvm.te.placeholder((kernel, inputs, outputs), name="weight")
    return [data, weight, tvm.topi.nn.conv1d_nwc(data, weight, stride, padding, 1)]


def _dilated_conv2d(
    tvm: Any,
    n: int,
    h: int,
    w: int,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    layout: str,
    *,
    bias: bool = False,
) -> list[Any]:
    te, topi = tvm.te, tvm.topi
    if layout == "NHWC":
        data = te.placeholder((n, h, w, inputs), name="data")
        weight = te.placeholder((kernel, kernel, inputs, outputs), name="weight")
        out = topi.nn.conv2d_nhwc(data, weight, stride, padding, dilation)
        shape = (1, 1, 1, outputs)
    else:
        data = te.placeholder((n, inputs, h, w), name="data")
        weight = te.placeholder((outputs, inputs, kernel, kernel), name="weight")
        out = topi.nn.conv2d_nchw(data, weight, stride, padding, dilation)
        shape = (1, outputs, 1, 1)
    if not bias:
        return [data, weight, out]
    # What batch normalisation is after a compiler has folded its scale into the weights.
    offset = te.placeholder(shape, name="bias")
    return [data, weight, offset, topi.nn.relu(topi.add(out, offset))]


def _conv2d(tvm: Any, *sizes_and_layout: Any, bias: bool = False) -> list[Any]:
    *sizes, layout = sizes_and_layout
    arguments: tuple[Any, ...] = (*sizes, 1, layout)
    return _dilated_conv2d(tvm, *arguments, bias=bias)


def _group_conv2d(
    tvm: Any,
    n: int,
    h: int,
    w: int,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    groups: int,
    layout: str,
) -> list[Any]:
    if inputs % groups or outputs % groups:
        raise WorkloadError(f"{groups} groups do not divide {inputs} and {outputs} channels")
    te, topi = tvm.te, tvm.topi
    sizes = (stride, padding, 1, groups)
    if layout == "NHWC":
        data = te.placeholder((n, h, w, inputs), name="data")
        weight = te.placeholder((kernel, kernel, inputs // groups, outputs), name="weight")
        return [data, weight, topi.nn.group_conv2d_nhwc(data, weight, *sizes)]
    data = te.placeholder((n, inputs, h, w), name="data")
    weight = te.placeholder((outputs, inputs // groups, kernel, kernel), name="weight")
    return [data, weight, topi.nn.group_conv2d_nchw(data, weight, *sizes)]


def _depthwise_conv2d(
    tvm: Any,
    n: int,
    h: int,
    w: int,
    channels: int,
    kernel: int,
    stride: int,
    padding: int,
    layout: str,
) -> list[Any]:
    te, topi = tvm.te, tvm.topi
    strides, pads = (stride, stride), (padding, padding)
    if layout == "NHWC":
        data = te.placeholder((n, h, w, channels), name="data")
        weight = te.placeholder((kernel, kernel, channels, 1), name="weight")
        out = topi.nn.depthwise_conv2d_nhwc(data, weight, strides, pads, (1, 1))
    else:
        data = te.placeholder((n, channels, h, w), name="data")
        weight = te.placeholder((channels, 1, kernel, kernel), name="weight")
        out = topi.nn.depthwise_conv2d_nchw(data, weight, strides, pads, (1, 1))
    return [data, weight, out]


def _transposed_conv2d(
    tvm: Any,
    n: int,
    h: int,
    w: int,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    _: str,
) -> list[Any]:
    data = tvm.te.placeholder((n, inputs, h, w), name="data")
    weight = tvm.te.placeholder((inputs, outputs, kernel, kernel), name="weight")
    strides, pads = (stride, stride), (padding, padding)
    out = tvm.topi.nn.conv2d_transpose_nchw(data, weight, strides, pads, "float32", (0, 0))
    return [data, weight, out]


def _conv3d(
    tvm: Any,
    n: int,
    depth: int,
    h: int,
    w: int,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    _: str,
) -> list[Any]:
    data = tvm.te.placeholder((n, depth, h, w, inputs), name="data")
    weight = tvm.te.placeholder((kernel, kernel, kernel, inputs, outputs), name="weight")
    return [data, weight, tvm.topi.nn.conv3d_ndhwc(data, weight, stride, padding, 1, 1)]


def _capsule_conv2d(
    tvm: Any,
    n: int,
    h: int,
    w: int,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    capsule: int,
    _: str,
) -> list[Any]:
    te = tvm.te
    data = te.placeholder((n, h, w, capsule, capsule, inputs), name="data")
    weight = te.placeholder((kernel, kernel, capsule, capsule, inputs, outputs), name="weight")
    height, width = _window((h, w), kernel, stride, padding)
    pads = [0, padding, padding, 0, 0, 0]
    padded = tvm.topi.nn.pad(data, pads, pads, name="padded")
    dy, dx = te.reduce_axis((0, kernel), name="dy"), te.reduce_axis((0, kernel), name="dx")
    channel, inner = te.reduce_axis((0, inputs), name="c"), te.reduce_axis((0, capsule), name="k")
    out = te.compute(
        (n, height, width, capsule, capsule, outputs),
        lambda b, y, x, i, j, o: te.sum(
            padded[b, y * stride + dy, x * stride + dx, i, inner, channel]
            * weight[dy, dx, inner, j, channel, o],
            axis=[dy, dx, inner, channel],
        ),
        name="capsule_conv2d",
    )
    return [data, weight, out]


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
_DEPTHWISE = ("N", "H", "W", "C", "KERNEL", "STRIDE", "PADDING")


def _conv2d_shapes(
    n: int, h: int, w: int, i: int, o: int, k: int, s: int, p: int, *_: int
) -> Shapes:
    return [*_image(n, (h, w), max(i, o), k, s, p), (k, k, i, o)]


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
        lambda n, t, i, o, k, s, p: [*_image(n, (t,), max(i, o), k, s, p), (k, i, o)],
        _conv1d,
    ),
    "conv2d": Operator(
        _CONV2D,
        _LAYOUTS,
        "2-D convolution of N images of H x W x CI, square kernel",
        "conv2d:1,56,56,64,64,3,1,1",
        _conv2d_shapes,
        _conv2d,
    ),
    "conv2d_bias_relu": Operator(
        _CONV2D,
        _LAYOUTS,
        "2-D convolution, bias, ReLU",
        "conv2d_bias_relu:1,56,56,64,64,3,1,1",
        _conv2d_shapes,
        functools.partial(_conv2d, bias=True),
    ),
    "dilated_conv2d": Operator(
        (*_CONV2D, "DILATION"),
        _LAYOUTS,
        "2-D convolution whose kernel has gaps",
        "dilated_conv2d:1,56,56,64,64,3,1,2,2",
        lambda n, h, w, i, o, k, s, p, d: [
            *_image(n, (h, w), max(i, o), (k - 1) * max(d, 1) + 1, s, p),
            (k, k, i, o),
        ],
        _dilated_conv2d,
    ),
    "group_conv2d": Operator(
        (*_CONV2D, "GROUPS"),
        _LAYOUTS,
        "2-D convolution of GROUPS groups of channels, each by itself",
        "group_conv2d:1,56,56,64,64,3,1,1,4",
        _conv2d_shapes,
        _group_conv2d,
    ),
    "depthwise_conv2d": Operator(
        _DEPTHWISE,
        _LAYOUTS,
        "2-D convolution of each channel by itself",
        "depthwise_conv2d:1,112,112,32,3,1,1",
        lambda n, h, w, c, k, s, p: _image(n, (h, w), c, k, s, p),
        _depthwise_conv2d,
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
        _transposed_conv2d,
    ),
    "conv3d": Operator(
        ("N", "D", *_CONV2D[1:]),
        ("NDHWC",),
        "3-D convolution, cubic kernel",
        "conv3d:1,16,28,28,64,64,3,1,1",
        lambda n, d, h, w, i, o, k, s, p: [
            *_image(n, (d, h, w), max(i, o), k, s, p),
            (k, k, k, i, o),
        ],
        _conv3d,
    ),
    "capsule_conv2d": Operator(
        (*_CONV2D, "CAPSULE"),
        _ONLY_FLOAT32,
        "2-D convolution whose pixels are CAPSULE x CAPSULE matrices",
        "capsule_conv2d:1,16,16,32,32,3,2,1,4",
        lambda n, h, w, i, o, k, s, p, c: [
            *_image(n, (h, w), max(i, o) * c * c, k, s, p),
            (k, k, c, c, i, o),
        ],
        _capsule_conv2d,
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
