"""Layers of neural networks, for the networks whose tasks are tuned.

Expressions are Relay's, or Relax's under Relay's names (`RelaxOps`).

Only shapes matter to a tuner: weights are free variables, and batch normalisation is the bias
that a compiler folds it into.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Features:
    """A batch of feature maps.

    Attributes:
        value: Expression.
        channels: Its channel extent.
    """

    value: Any
    channels: int


class Layers:
    """Creates layers; every weight becomes a fresh variable.

    Args:
        ops: Creates expressions: `tvm.relay`, or `RelaxOps`.
        layout: "NHWC" or "NCHW", of images.
    """

    def __init__(self, ops: Any, layout: str) -> None:
        self.ops = ops
        self.layout = layout
        self.channel_axis = layout.index("C")
        self._names = (f"p{number}" for number in itertools.count())

    def weight(self, shape: Sequence[int]) -> Any:
        """A trained tensor."""
        return self.ops.var(next(self._names), shape=tuple(shape), dtype="float32")

    def image(self, batch: int, channels: int, side: int) -> Features:
        """The network's input."""
        sides = {"N": batch, "C": channels, "H": side, "W": side}
        shape = tuple(sides[axis] for axis in self.layout)
        return Features(self.ops.var("data", shape=shape, dtype="float32"), channels)

    def conv(
        self,
        x: Features,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        *,
        groups: int = 1,
        act: str = "relu",
    ) -> Features:
        """Convolution, bias and activation ("relu", "relu6", "" for none).

        Args:
            x: Input.
            channels: Channels of the output.
            kernel: Height and width, or both.
            stride: Stride of both axes.
            padding: Padding of each side of H and W; None keeps the extents at stride 1.
            groups: As many as channels for a depthwise convolution.
            act: Activation.
        """
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        if padding is None:
            padding = ((high - 1) // 2, (wide - 1) // 2)
        pads = (padding, padding) if isinstance(padding, int) else padding
        depthwise = groups == x.channels and groups > 1
        sides = {"O": channels, "I": x.channels // groups, "H": high, "W": wide}
        if self.layout == "NCHW":
            kernel_layout = "OIHW"
        elif depthwise:
            kernel_layout = "HWOI"
        else:
            kernel_layout = "HWIO"
        value = self.ops.nn.conv2d(
            x.value,
            self.weight([sides[axis] for axis in kernel_layout]),
            strides=(stride, stride),
            padding=pads,
            groups=groups,
            channels=channels,
            kernel_size=(high, wide),
            data_layout=self.layout,
            kernel_layout=kernel_layout,
        )
        return self.activate(Features(self.bias(value, channels), channels), act)

    def transposed_conv(
        self, x: Features, channels: int, kernel: int, stride: int, padding: int, act: str
    ) -> Features:
        """Transposed convolution and activation; NCHW only."""
        value = self.ops.nn.conv2d_transpose(
            x.value,
            self.weight((x.channels, channels, kernel, kernel)),
            strides=(stride, stride),
            padding=(padding, padding),
            channels=channels,
            kernel_size=(kernel, kernel),
        )
        return self.activate(Features(self.bias(value, channels), channels), act)

    def bias(self, value: Any, channels: int) -> Any:
        """Adds one trained number a channel."""
        return self.ops.nn.bias_add(value, self.weight((channels,)), axis=self.channel_axis)

    def activate(self, x: Features, act: str) -> Features:
        """Applies "relu", "relu6", "tanh", or "" for nothing."""
        ops = self.ops
        functions = {
            "": lambda value: value,
            "relu": ops.nn.relu,
            "relu6": lambda value: ops.clip(value, 0.0, 6.0),
            "tanh": ops.tanh,
        }
        return Features(functions[act](x.value), x.channels)

    def add(self, x: Features, y: Features) -> Features:
        """Element-wise sum."""
        return Features(self.ops.add(x.value, y.value), x.channels)

    def concatenate(self, parts: Sequence[Features]) -> Features:
        """Joins along the channels."""
        joined = self.ops.concatenate([part.value for part in parts], axis=self.channel_axis)
        return Features(joined, sum(part.channels for part in parts))

    def scale_shift(self, x: Features, act: str = "relu") -> Features:
        """A batch normalisation that no convolution can absorb."""
        shape = [1, 1, 1, 1]
        shape[self.channel_axis] = x.channels
        scaled = self.ops.multiply(x.value, self.weight(shape))
        shifted = self.ops.add(scaled, self.weight(shape))
        return self.activate(Features(shifted, x.channels), act)

    def max_pool(self, x: Features, kernel: int, stride: int, padding: int = 0) -> Features:
        """Maximum of windows."""
        sizes = {"pool_size": (kernel, kernel), "strides": (stride, stride)}
        value = self.ops.nn.max_pool2d(
            x.value, **sizes, padding=(padding, padding), layout=self.layout
        )
        return Features(value, x.channels)

    def average_pool(self, x: Features, kernel: int, stride: int, padding: int = 0) -> Features:
        """Mean of windows."""
        sizes = {"pool_size": (kernel, kernel), "strides": (stride, stride)}
        value = self.ops.nn.avg_pool2d(
            x.value, **sizes, padding=(padding, padding), layout=self.layout
        )
        return Features(value, x.channels)

    def flat_mean(self, x: Features) -> Features:
        """Global average pooling to [batch, channels]."""
        pooled = self.ops.nn.global_avg_pool2d(x.value, layout=self.layout)
        return Features(self.ops.nn.batch_flatten(pooled), x.channels)

    def dense(self, x: Features, units: int, act: str = "") -> Features:
        """Fully connected layer with bias on [rows, channels]."""
        value = self.ops.nn.dense(x.value, self.weight((units, x.channels)))
        value = self.ops.nn.bias_add(value, self.weight((units,)), axis=-1)
        if act == "gelu":
            return Features(self.gelu(value), units)
        return self.activate(Features(value, units), act)

    def gelu(self, value: Any) -> Any:
        """Gaussian error linear unit, x * Phi(x)."""
        ops = self.ops
        error = ops.erf(ops.multiply(value, ops.const(1 / math.sqrt(2))))
        gate = ops.multiply(ops.add(error, ops.const(1.0)), ops.const(0.5))
        return ops.multiply(value, gate)

    def layer_norm(self, x: Features) -> Features:
        """Layer normalisation of rows."""
        gamma, beta = self.weight((x.channels,)), self.weight((x.channels,))
        return Features(self.ops.nn.layer_norm(x.value, gamma, beta), x.channels)

    def attention(self, x: Features, batch: int, length: int, heads: int) -> Features:
        """Multi-head self-attention on [batch * length, channels], output projection included."""
        ops = self.ops
        width = x.channels // heads

        def split(value: Any) -> Any:
            turned = ops.transpose(ops.reshape(value, (batch, length, heads, width)), (0, 2, 1, 3))
            return ops.reshape(turned, (batch * heads, length, width))

        query, key, value = (split(self.dense(x, x.channels).value) for _ in range(3))
        scores = ops.nn.batch_matmul(query, key)
        scaled = ops.multiply(scores, ops.const(1 / math.sqrt(width)))
        weights = ops.nn.softmax(scaled, axis=-1)
        mixed = ops.nn.batch_matmul(weights, ops.transpose(value, (0, 2, 1)))
        merged = ops.transpose(ops.reshape(mixed, (batch, heads, length, width)), (0, 2, 1, 3))
        rows = ops.reshape(merged, (batch * length, x.channels))
        return self.dense(Features(rows, x.channels), x.channels)
