"""Splits by network: what a model is judged on occurs in no network that it was trained on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cwm_jax.training.dataset import split_workloads

Occurrences = Mapping[str, Mapping[str, int]]


class NetworkSplit(NamedTuple):
    """Workload keys to train on, and how often each test workload occurs in a network.

    Attributes:
        train: Keys that occur in no held-out network.
        test: Weights by key, by held-out network.
    """

    train: tuple[str, ...]
    test: dict[str, dict[str, int]]

    @property
    def test_keys(self) -> tuple[str, ...]:
        """All test workloads, each once."""
        return tuple(sorted({key for weights in self.test.values() for key in weights}))


def split_by_network(occurrences: Occurrences, held_out: Sequence[str]) -> NetworkSplit:
    """Holds networks out.

    Args:
        occurrences: Workload key -> network, as `NAME:BATCH,LAYOUT`, -> how often it occurs.
        held_out: Names of networks, whatever their batch size and layout.
    """
    test: dict[str, dict[str, int]] = {}
    train: list[str] = []
    for key, networks in sorted(occurrences.items()):
        held = {text: n for text, n in networks.items() if text.partition(":")[0] in held_out}
        for network, count in held.items():
            test.setdefault(network, {})[key] = count
        if not held:
            train.append(key)
    return NetworkSplit(tuple(train), test)


def hold_out_workloads(keys: Sequence[str]) -> NetworkSplit:
    """Holds a fifth of the workloads out where no networks are known; each counts alike.

    Whether a workload is held out does not depend on the others.
    """
    split = split_workloads(keys, test=0.2, seed=0)
    return NetworkSplit(split.train, {"held-out workloads": dict.fromkeys(split.test, 1)})
