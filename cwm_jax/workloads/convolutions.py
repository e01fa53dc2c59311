"""The convolutions among the operators, as TE computations.

Each takes a TVM, sizes, and a layout where it has several.
"""

from collections.abc import Sequence
from typing import Any

from cwm_jax.errors import WorkloadError

LAYOUTS = ("NHWC", "NCHW")
Shapes = list[tuple[int, ...]]


def window(sides: Sequence[int], kernel: int, stride: int, padding: int) -> tuple[int, ...]:
    """Output extents of a convolution; `kernel` counts the gaps of a dilated one."""
    if kernel > min(sides) + 2 * padding:
        shown = "x".join(map(str, sides))
        raise WorkloadError(
            f"a kernel of {kernel} does not fit an image of {shown} padded by {padding}"
        )
    return tuple((side + 2 * padding - kernel) // stride + 1 for side in sides)


def image(
    n: int, sides: Sequence[int], channels: int, kernel: int, stride: int, padding: int
) -> Shapes:
    """Returns the shapes of a padded image and of its convolution, channels last."""
    out = window(sides, kernel, stride, padding)
    return [(n, *(side + 2 * padding for side in sides), channels), (n, *out, channels)]


def conv1d(
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
    """Returns inputs and output of a convolution of signals."""
    data = tvm.te.placeholder((n, length, inputs), name="data")
    weight = tvm.te.placeholder((kernel, inputs, outputs), name="weight")
    return [data, weight, tvm.topi.nn.conv1d_nwc(data, weight, stride, padding, 1)]


def dilated_conv2d(
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
    """Returns inputs and output of a convolution whose kernel has gaps."""
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


def conv2d(tvm: Any, *sizes_and_layout: Any, bias: bool = False) -> list[Any]:
    """Returns inputs and output of a convolution of images."""
    *sizes, layout = sizes_and_layout
    arguments: tuple[Any, ...] = (*sizes, 1, layout)
    return dilated_conv2d(tvm, *arguments, bias=bias)


def group_conv2d(
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
    """Returns inputs and output of a convolution within groups of channels."""
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


def depthwise_conv2d(
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
    """Returns inputs and output of a convolution of each channel by itself."""
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


def transposed_conv2d(
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
    """Returns inputs and output of a transposed convolution."""
    data = tvm.te.placeholder((n, inputs, h, w), name="data")
    weight = tvm.te.placeholder((inputs, outputs, kernel, kernel), name="weight")
    strides, pads = (stride, stride), (padding, padding)
    out = tvm.topi.nn.conv2d_transpose_nchw(data, weight, strides, pads, "float32", (0, 0))
    return [data, weight, out]


def conv3d(
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
    """Returns inputs and output of a convolution of volumes."""
    data = tvm.te.placeholder((n, depth, h, w, inputs), name="data")
    weight = tvm.te.placeholder((kernel, kernel, kernel, inputs, outputs), name="weight")
    return [data, weight, tvm.topi.nn.conv3d_ndhwc(data, weight, stride, padding, 1, 1)]


def capsule_conv2d(
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
    """Returns inputs and output of a convolution of capsules, matrices in place of numbers."""
    te = tvm.te
    data = te.placeholder((n, h, w, capsule, capsule, inputs), name="data")
    weight = te.placeholder((kernel, kernel, capsule, capsule, inputs, outputs), name="weight")
    height, width = window((h, w), kernel, stride, padding)
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


def conv2d_shapes(
    n: int, h: int, w: int, i: int, o: int, k: int, s: int, p: int, *_: int
) -> Shapes:
    """Returns the shapes of the tensors that `conv2d` holds."""
    return [*image(n, (h, w), max(i, o), k, s, p), (k, k, i, o)]
