"""Times a network in PyTorch, in an environment of its own that has PyTorch and nothing of ours.

    python tools/pytorch_network.py resnet-50 --mode eager --repeats 5

The networks are the built-in ones of this project: convolutions carry a bias where training has
a batch normalisation, as it is folded for inference. Prints seconds of one inference as JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEAST_SECONDS = 0.5
_THREADS = 2


class Bottleneck(nn.Module):
    """Three convolutions around a shortcut (arXiv 1512.03385)."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, inner, 1)
        self.second = nn.Conv2d(inner, inner, 3, stride, 1)
        self.third = nn.Conv2d(inner, outputs, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the next features."""
        y = functional.relu(self.first(x))
        y = self.third(functional.relu(self.second(y)))
        return functional.relu(y + self.shortcut(x))


class ResNet50(nn.Module):
    """ResNet-50 for images of 224 x 224."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, 3)
        blocks: list[nn.Module] = []
        inputs = 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            inner, outputs = 64 * 2**stage, 256 * 2**stage
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Bottleneck(inputs, inner, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classes = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the classes' scores."""
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2, 1)
        return self.classes(self.blocks(x).mean((2, 3)))


class Layer(nn.Module):
    """A layer of BERT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(1, x.shape[0], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the next features of all tokens."""
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        found = functional.scaled_dot_product_attention(query, key, value)
        x = self.first_norm(x + self.out(found.transpose(1, 2).reshape(x.shape)))
        return self.second_norm(x + self.narrow(functional.gelu(self.wide(x))))


class BertBase(nn.Module):
    """BERT-base from embedded tokens on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(768)
        self.layers = nn.Sequential(*(Layer(768, 12) for _ in range(12)))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the features of all tokens."""
        return self.layers(self.norm(x))


NETWORKS = {
    "resnet-50": (ResNet50, (1, 3, 224, 224)),
    "bert-base": (BertBase, (128, 768)),
}


def main() -> None:
    """Times one network in one mode."""
    parser = argparse.ArgumentParser(description="Times a network in PyTorch.")
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("--mode", choices=("eager", "compile"), default="eager")
    parser.add_argument("--layout", choices=("NCHW", "NHWC"), default="NCHW")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(_THREADS)
    torch.manual_seed(0)
    create, shape = NETWORKS[options.network]
    network, data = create().eval(), torch.rand(shape)
    if options.layout == "NHWC" and data.ndim == 4:
        network = network.to(memory_format=torch.channels_last)
        data = data.to(memory_format=torch.channels_last)
    if options.mode == "compile":
        network = torch.compile(network)
    with torch.inference_mode():
        for _ in range(3):
            network(data)
        seconds = [_seconds(network, data) for _ in range(options.repeats)]
    print(json.dumps({"torch": torch.__version__, "seconds": seconds}))


def _seconds(network: Callable[[Tensor], Any], data: Tensor) -> float:
    """Mean of as many inferences as take `_LEAST_SECONDS`."""
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < _LEAST_SECONDS:
        network(data)
        count += 1
    return (time.perf_counter() - started) / count


if __name__ == "__main__":
    main()
