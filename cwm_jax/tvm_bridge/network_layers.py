"""Layers of neural networks as Relay expressions, for the networks whose tasks are tuned.

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
        value: Relay expression.
        channels: Its channel extent.
    """

    value: Any
    channels: int


class Layers:
    """Creates layers; every weight becomes a fresh variable.

    Args:
        tvm: A TVM with Relay.
        layout: "NHWC" or "NCHW", of images.
    """

    def __init__(self, tvm: Any, layout: str) -> None:
        self.relay = tvm.relay
        self.layout = layout
        self.channel_axis = layout.index("C")
        self._names = (f"p{number}" for number in itertools.count())

    def weight(self, shape: Sequence[int]) -> Any:
        """A trained tensor."""
        return self.relay.var(next(self._names), shape=tuple(shape), dtype="float32")

    def image(self, batch: int, channels: int, side: int) -> Features:
        """The network's input."""
        sides = {"N": batch, "C": channels, "H": side, "W": side}
        shape = tuple(sides[axis] for axis in self.layout)
        return Features(self.relay.var("data", shape=shape, dtype="float32"), channels)

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
            channels: Of the output.
            kernel: Height and width, or both.
            stride: Of both axes.
            padding: Of each side of H and W; None keeps the extents at stride 1.
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
        value = self.relay.nn.conv2d(
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
        value = self.relay.nn.conv2d_transpose(
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
        return self.relay.nn.bias_add(value, self.weight((channels,)), axis=self.channel_axis)

    def activate(self, x: Features, act: str) -> Features:
        """Applies "relu", "relu6", "tanh", or "" for nothing."""
        relay = self.relay
        functions = {
            "": lambda value: value,
            "relu": relay.nn.relu,
            "relu6": lambda value: relay.clip(value, 0.0, 6.0),
            "tanh": relay.tanh,
        }
        return Features(functions[act](x.value), x.channels)

    def add(self, x: Features, y: Features) -> Features:
        """Element-wise sum."""
        return Features(self.relay.add(x.value, y.value), x.channels)

    def concatenate(self, parts: Sequence[Features]) -> Features:
        """Joins along the channels."""
        joined = self.relay.concatenate([part.value for part in parts], axis=self.channel_axis)
        return Features(joined, sum(part.channels for part in parts))

    def scale_shift(self, x: Features, act: str = "relu") -> Features:
        """A batch normalisation that no convolution can absorb."""
        shape = [1, 1, 1, 1]
        shape[self.channel_axis] = x.channels
        scaled = self.relay.multiply(x.value, self.weight(shape))
        shifted = self.relay.add(scaled, self.weight(shape))
        return self.activate(Features(shifted, x.channels), act)

    def max_pool(self, x: Features, kernel: int, stride: int, padding: int = 0) -> Features:
        """Maximum of windows."""
        sizes = {"pool_size": (kernel, kernel), "strides": (stride, stride)}
        value = self.relay.nn.max_pool2d(
            x.value, **sizes, padding=(padding, padding), layout=self.layout
        )
        return Features(value, x.channels)

    def average_pool(self, x: Features, kernel: int, stride: int, padding: int = 0) -> Features:
        """Mean of windows."""
        sizes = {"pool_size": (kernel, kernel), "strides": (stride, stride)}
        value = self.relay.nn.avg_pool2d(
            x.value, **sizes, padding=(padding, padding), layout=self.layout
        )
        return Features(value, x.channels)

    def flat_mean(self, x: Features) -> Features:
        """Global average pooling to [batch, channels]."""
        pooled = self.relay.nn.global_avg_pool2d(x.value, layout=self.layout)
        return Features(self.relay.nn.batch_flatten(pooled), x.channels)

    def dense(self, x: Features, units: int, act: str = "") -> Features:
        """Fully connected layer with bias on [rows, channels]."""
        value = self.relay.nn.dense(x.value, self.weight((units, x.channels)))
        value = self.relay.nn.bias_add(value, self.weight((units,)), axis=-1)
        if act == "gelu":
            return Features(self.gelu(value), units)
        return self.activate(Features(value, units), act)

    def gelu(self, value: Any) -> Any:
        """Gaussian error linear unit, x * Phi(x)."""
        relay = self.relay
        error = relay.erf(relay.multiply(value, relay.const(1 / math.sqrt(2))))
        gate = relay.multiply(relay.add(error, relay.const(1.0)), relay.const(0.5))
        return relay.multiply(value, gate)

    def layer_norm(self, x: Features) -> Features:
        """Layer normalisation of rows."""
        gamma, beta = self.weight((x.channels,)), self.weight((x.channels,))
        return Features(self.relay.nn.layer_norm(x.value, gamma, beta), x.channels)

    def attention(self, x: Features, batch: int, length: int, heads: int) -> Features:
        """Multi-head self-attention on [batch * length, channels], output projection included."""
        relay = self.relay
        width = x.channels // heads

        def split(value: Any) -> Any:
            turned = relay.transpose(
                relay.reshape(value, (batch, length, heads, width)), (0, 2, 1, 3)
            )
            return relay.reshape(turned, (batch * heads, length, width))

        query, key, value = (split(self.dense(x, x.channels).value) for _ in range(3))
        scores = relay.nn.batch_matmul(query, key)
        scaled = relay.multiply(scores, relay.const(1 / math.sqrt(width)))
        weights = relay.nn.softmax(scaled, axis=-1)
        mixed = relay.nn.batch_matmul(weights, relay.transpose(value, (0, 2, 1)))
        merged = relay.transpose(relay.reshape(mixed, (batch, heads, length, width)), (0, 2, 1, 3))
        rows = relay.reshape(merged, (batch * length, x.channels))
        return self.dense(Features(rows, x.channels), x.channels)
