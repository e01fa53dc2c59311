"""Networks whose tasks are tuned and collected, written from their papers."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from cwm_jax.errors import WorkloadError
from cwm_jax.workloads.layers import Features, Layers

_TOPHUB = "TOPHUB_LOCATION"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network at one batch size and layout.

    Attributes:
        name: Name in `NETWORKS`.
        batch: Images or sequences.
        layout: Layout of images.
    """

    name: str
    batch: int = 1
    layout: str = "NHWC"

    def __str__(self) -> str:
        return f"{self.name}:{self.batch},{self.layout}"


def parse_network(text: str) -> Network:
    """Reads `NAME[:BATCH[,LAYOUT]]`, for example `resnet-50:1,NHWC`.

    Raises:
        WorkloadError: The name, the batch size or the layout is unknown.
    """
    name, _, rest = text.partition(":")
    batch, _, layout = rest.partition(",")
    if name not in NETWORKS:
        raise WorkloadError(f"unknown network {name!r}, expected one of {', '.join(NETWORKS)}")
    if batch and not (batch.isascii() and batch.isdecimal() and 0 < int(batch) <= 4096):
        raise WorkloadError(f"{text!r}: BATCH is {batch!r}, expected an integer from 1 to 4096")
    if layout not in ("", "NHWC", "NCHW"):
        raise WorkloadError(f"{text!r}: LAYOUT is {layout!r}, expected NHWC or NCHW")
    return Network(name, int(batch or 1), layout or "NHWC")


def build_network(ops: Any, network: Network) -> Features:
    """Returns what a network computes.

    Args:
        ops: Creates expressions (`Layers`).
        network: Which one.
    """
    layout = "NCHW" if network.name == "dcgan" else network.layout
    return NETWORKS[network.name](Layers(ops, layout), network.batch)


def _resnet(
    layers: Layers, batch: int, depths: Sequence[int], *, bottleneck: bool, groups: int, width: int
) -> Features:
    x = layers.conv(layers.image(batch, 3, 224), 64, 7, 2, 3)
    x = layers.max_pool(x, 3, 2, 1)
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            inner = 64 * 2**stage * width * groups // 64
            out = 64 * 2**stage * (4 if bottleneck else 1)
            shortcut = x
            if stride != 1 or x.channels != out:
                shortcut = layers.conv(x, out, 1, stride, act="")
            if bottleneck:
                y = layers.conv(x, inner, 1)
                y = layers.conv(y, inner, 3, stride, groups=groups)
                y = layers.conv(y, out, 1, act="")
            else:
                y = layers.conv(layers.conv(x, out, 3, stride), out, 3, act="")
            x = layers.activate(layers.add(y, shortcut), "relu")
    return layers.dense(layers.flat_mean(x), 1000)


def _resnet18(layers: Layers, batch: int) -> Features:
    return _resnet(layers, batch, (2, 2, 2, 2), bottleneck=False, groups=1, width=64)


def _resnet50(layers: Layers, batch: int) -> Features:
    return _resnet(layers, batch, (3, 4, 6, 3), bottleneck=True, groups=1, width=64)


def _resnext50(layers: Layers, batch: int) -> Features:
    return _resnet(layers, batch, (3, 4, 6, 3), bottleneck=True, groups=32, width=4)


def _wide_resnet50(layers: Layers, batch: int) -> Features:
    return _resnet(layers, batch, (3, 4, 6, 3), bottleneck=True, groups=1, width=128)


def _mobilenet_v1(layers: Layers, batch: int) -> Features:
    x = layers.conv(layers.image(batch, 3, 224), 32, 3, 2, 1)
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for channels, stride in [*plan, (1024, 2), (1024, 1)]:
        x = layers.conv(x, x.channels, 3, stride, 1, groups=x.channels)
        x = layers.conv(x, channels, 1)
    return layers.dense(layers.flat_mean(x), 1000)


def _mobilenet_v2(layers: Layers, batch: int) -> Features:
    x = layers.conv(layers.image(batch, 3, 224), 32, 3, 2, 1, act="relu6")
    # (expansion, channels, blocks, stride of the first), table 2 of arXiv 1801.04381
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    for expansion, channels, blocks, stride in [
        *plan,
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:
        for block in range(blocks):
            step = stride if block == 0 else 1
            inner = x.channels * expansion
            y = layers.conv(x, inner, 1, act="relu6") if expansion > 1 else x
            y = layers.conv(y, inner, 3, step, 1, groups=inner, act="relu6")
            y = layers.conv(y, channels, 1, act="")
            x = layers.add(x, y) if step == 1 and x.channels == channels else y
    x = layers.conv(x, 1280, 1, act="relu6")
    return layers.dense(layers.flat_mean(x), 1000)


def _mnasnet(layers: Layers, batch: int) -> Features:
    x = layers.conv(layers.image(batch, 3, 224), 32, 3, 2, 1)
    x = layers.conv(layers.conv(x, 32, 3, 1, 1, groups=32), 16, 1, act="")
    # (kernel, expansion, channels, blocks, stride of the first), MnasNet-B1 of arXiv 1807.11626
    plan = [(3, 3, 24, 3, 2), (5, 3, 40, 3, 2), (5, 6, 80, 3, 2)]
    for kernel, expansion, channels, blocks, stride in [
        *plan,
        (3, 6, 96, 2, 1),
        (5, 6, 192, 4, 2),
        (3, 6, 320, 1, 1),
    ]:
        for block in range(blocks):
            step = stride if block == 0 else 1
            inner = x.channels * expansion
            y = layers.conv(x, inner, 1)
            y = layers.conv(y, inner, kernel, step, kernel // 2, groups=inner)
            y = layers.conv(y, channels, 1, act="")
            x = layers.add(x, y) if step == 1 and x.channels == channels else y
    return layers.dense(layers.flat_mean(layers.conv(x, 1280, 1)), 1000)


def _regnet_x_800mf(layers: Layers, batch: int) -> Features:
    x = layers.conv(layers.image(batch, 3, 224), 32, 3, 2, 1)
    for channels, blocks in ((64, 1), (128, 3), (288, 7), (672, 5)):
        for block in range(blocks):
            stride = 2 if block == 0 else 1
            shortcut = layers.conv(x, channels, 1, stride, 0, act="") if block == 0 else x
            y = layers.conv(x, channels, 1)
            y = layers.conv(y, channels, 3, stride, 1, groups=channels // 16)
            y = layers.conv(y, channels, 1, act="")
            x = layers.activate(layers.add(y, shortcut), "relu")
    return layers.dense(layers.flat_mean(x), 1000)


def _densenet121(layers: Layers, batch: int) -> Features:
    x = layers.max_pool(layers.conv(layers.image(batch, 3, 224), 64, 7, 2, 3), 3, 2, 1)
    for stage, depth in enumerate((6, 12, 24, 16)):
        if stage > 0:
            x = layers.conv(layers.scale_shift(x), x.channels // 2, 1, act="")
            x = layers.average_pool(x, 2, 2)
        for _ in range(depth):
            y = layers.conv(layers.scale_shift(x), 128, 1)
            x = layers.concatenate([x, layers.conv(y, 32, 3, act="")])
    return layers.dense(layers.flat_mean(layers.scale_shift(x)), 1000)


def _inception_v3(layers: Layers, batch: int) -> Features:
    conv, pool = layers.conv, layers.average_pool
    x = conv(conv(conv(layers.image(batch, 3, 299), 32, 3, 2, 0), 32, 3, 1, 0), 64, 3)
    x = conv(conv(layers.max_pool(x, 3, 2), 80, 1), 192, 3, 1, 0)
    x = layers.max_pool(x, 3, 2)
    for channels in (32, 64, 64):
        three = conv(conv(conv(x, 64, 1), 96, 3), 96, 3)
        five = conv(conv(x, 48, 1), 64, 5)
        pooled = conv(pool(x, 3, 1, 1), channels, 1)
        x = layers.concatenate([conv(x, 64, 1), five, three, pooled])
    three = conv(conv(conv(x, 64, 1), 96, 3), 96, 3, 2, 0)
    x = layers.concatenate([conv(x, 384, 3, 2, 0), three, layers.max_pool(x, 3, 2)])
    for channels in (128, 160, 160, 192):
        seven = conv(conv(conv(x, channels, 1), channels, (1, 7)), 192, (7, 1))
        twice = conv(conv(conv(x, channels, 1), channels, (7, 1)), channels, (1, 7))
        twice = conv(conv(twice, channels, (7, 1)), 192, (1, 7))
        pooled = conv(pool(x, 3, 1, 1), 192, 1)
        x = layers.concatenate([conv(x, 192, 1), seven, twice, pooled])
    three = conv(conv(x, 192, 1), 320, 3, 2, 0)
    seven = conv(conv(conv(x, 192, 1), 192, (1, 7)), 192, (7, 1))
    x = layers.concatenate([three, conv(seven, 192, 3, 2, 0), layers.max_pool(x, 3, 2)])
    for _ in range(2):
        three = conv(x, 384, 1)
        twice = conv(conv(x, 448, 1), 384, 3)
        split = [conv(part, 384, kernel) for part in (three, twice) for kernel in ((1, 3), (3, 1))]
        x = layers.concatenate([conv(x, 320, 1), *split, conv(pool(x, 3, 1, 1), 192, 1)])
    return layers.dense(layers.flat_mean(x), 1000)


def _vgg16(layers: Layers, batch: int) -> Features:
    x = layers.image(batch, 3, 224)
    for channels, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            x = layers.conv(x, channels, 3)
        x = layers.max_pool(x, 2, 2)
    flat = Features(layers.ops.nn.batch_flatten(x.value), x.channels * 49)
    return layers.dense(layers.dense(layers.dense(flat, 4096, "relu"), 4096, "relu"), 1000)


def _squeezenet(layers: Layers, batch: int) -> Features:
    x = layers.max_pool(layers.conv(layers.image(batch, 3, 224), 64, 3, 2, 0), 3, 2)
    for at, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if at in (2, 4):
            x = layers.max_pool(x, 3, 2)
        y = layers.conv(x, squeeze, 1)
        x = layers.concatenate([layers.conv(y, squeeze * 4, k) for k in (1, 3)])
    return layers.flat_mean(layers.conv(x, 1000, 1))


def _dcgan(layers: Layers, batch: int) -> Features:
    noise = Features(
        layers.ops.var("data", shape=(batch, 100), dtype="float32"),
        100,
    )
    flat = layers.dense(noise, 1024 * 16, "relu")
    x = Features(layers.ops.reshape(flat.value, (batch, 1024, 4, 4)), 1024)
    for channels, act in ((512, "relu"), (256, "relu"), (128, "relu"), (3, "tanh")):
        x = layers.transposed_conv(x, channels, 4, 2, 1, act)
    return x


def _transformer(
    layers: Layers,
    x: Features,
    batch: int,
    length: int,
    *,
    depth: int,
    heads: int,
    norm_first: bool,
) -> Features:
    for _ in range(depth):
        y = layers.layer_norm(x) if norm_first else x
        x = layers.add(x, layers.attention(y, batch, length, heads))
        x = x if norm_first else layers.layer_norm(x)
        y = layers.layer_norm(x) if norm_first else x
        y = layers.dense(layers.dense(y, 4 * x.channels, "gelu"), x.channels)
        x = layers.add(x, y)
        x = x if norm_first else layers.layer_norm(x)
    return x


def _embedded(layers: Layers, rows: int, channels: int) -> Features:
    """Looked-up tokens; the look-up itself is no task."""
    return Features(layers.ops.var("data", shape=(rows, channels), dtype="float32"), channels)


def _bert(depth: int, heads: int, length: int = 128) -> Callable[[Layers, int], Features]:
    def build(layers: Layers, batch: int) -> Features:
        x = layers.layer_norm(_embedded(layers, batch * length, heads * 64))
        return _transformer(layers, x, batch, length, depth=depth, heads=heads, norm_first=False)

    return build


def _gpt2(layers: Layers, batch: int, length: int = 256) -> Features:
    x = _embedded(layers, batch * length, 768)
    x = _transformer(layers, x, batch, length, depth=12, heads=12, norm_first=True)
    return layers.layer_norm(x)


def _vit(layers: Layers, batch: int) -> Features:
    ops, width, length = layers.ops, 384, 196
    x = layers.conv(layers.image(batch, 3, 224), width, 16, 16, 0, act="")
    if layers.layout == "NCHW":
        x = Features(ops.transpose(x.value, (0, 2, 3, 1)), width)
    x = Features(ops.reshape(x.value, (batch * length, width)), width)
    x = _transformer(layers, x, batch, length, depth=12, heads=6, norm_first=True)
    tokens = ops.reshape(layers.layer_norm(x).value, (batch, length, width))
    return layers.dense(Features(ops.mean(tokens, axis=1), width), 1000)


def _lstm(layers: Layers, batch: int) -> Features:
    """Two layers of 512 units over eight steps."""
    ops, units, steps = layers.ops, 512, 8
    data = ops.var("data", shape=(batch, steps, units), dtype="float32")
    inputs = [ops.squeeze(part, [1]) for part in ops.split(data, steps, axis=1)]
    for _ in range(2):
        weights = layers.weight((4 * units, 2 * units))
        bias = layers.weight((4 * units,))
        hidden = cell = ops.zeros((batch, units), "float32")
        outputs = []
        for step in inputs:
            joined = ops.concatenate([step, hidden], axis=1)
            gates = ops.nn.bias_add(ops.nn.dense(joined, weights), bias, axis=-1)
            enter, forget, update, leave = ops.split(gates, 4, axis=1)
            kept = ops.multiply(ops.sigmoid(forget), cell)
            cell = ops.add(kept, ops.multiply(ops.sigmoid(enter), ops.tanh(update)))
            hidden = ops.multiply(ops.sigmoid(leave), ops.tanh(cell))
            outputs.append(hidden)
        inputs = outputs
    return Features(inputs[-1], units)


def _mlp(layers: Layers, batch: int) -> Features:
    x = _embedded(layers, batch, 784)
    for units in (1024, 512, 256):
        x = layers.dense(x, units, "relu")
    return layers.dense(x, 10)


NETWORKS: dict[str, Callable[[Layers, int], Features]] = {
    "resnet-18": _resnet18,
    "resnet-50": _resnet50,
    "resnext-50": _resnext50,
    "wide-resnet-50": _wide_resnet50,
    "mobilenet-v1": _mobilenet_v1,
    "mobilenet-v2": _mobilenet_v2,
    "mnasnet-b1": _mnasnet,
    "regnet-x-800mf": _regnet_x_800mf,
    "densenet-121": _densenet121,
    "inception-v3": _inception_v3,
    "vgg-16": _vgg16,
    "squeezenet": _squeezenet,
    "dcgan": _dcgan,
    "bert-tiny": _bert(2, 2),
    "bert-base": _bert(12, 12),
    "bert-large": _bert(24, 16),
    "gpt2-small": _gpt2,
    "vit-small": _vit,
    "lstm": _lstm,
    "mlp": _mlp,
}


def networks_help() -> str:
    """Returns the help text that lists what `--network` takes."""
    return "\n".join(
        [
            "networks:",
            "  NAME[:BATCH[,LAYOUT]]  a built-in one with random weights, NHWC or NCHW:",
            *(f"      {name}" for name in NETWORKS),
            "  FILE.py:FUNCTION  a function of yours that returns a torch.nn.Module and a tuple",
            "      of example inputs; needs PyTorch in this environment",
            "  FILE.onnx  an ONNX model with fixed shapes; pip install 'cwm-jax[onnx]' first",
        ]
    )


def is_users_own(text: str) -> bool:
    """Returns whether a network is a user's own, and not built in."""
    return text.partition(":")[0].endswith(".py") or text.endswith(".onnx")
