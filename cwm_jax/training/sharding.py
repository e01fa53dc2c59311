"""Training on one device, several, or several hosts: each takes its share of a batch's lists.

Every host makes the same batches from the same seed and keeps its share; XLA sums the gradients
over all devices.
"""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_LISTS = "lists"

Tree = TypeVar("Tree")


def data_mesh(lists: int) -> Mesh:
    """Returns the devices that share out the lists of a batch.

    Args:
        lists: Lists a batch. Of one host's devices the largest number that divides it is used;
            several hosts use all theirs.

    Raises:
        ValueError: Several hosts have a number of devices that does not divide `lists`.
    """
    devices = jax.devices()
    count = max(size for size in range(1, len(devices) + 1) if lists % size == 0)
    if jax.process_count() > 1 and count != len(devices):
        raise ValueError(
            f"{jax.process_count()} hosts have {len(devices)} devices together, which do not "
            f"divide a batch of {lists} lists"
        )
    return jax.make_mesh((count,), (_LISTS,), (AxisType.Auto,), devices=devices[:count])


def share_out(batch: Tree, mesh: Mesh) -> Tree:
    """Moves a batch to the devices, each array split along its leading axis.

    Args:
        batch: Of NumPy arrays `[list, ...]`, the same on every host.
        mesh: Of `data_mesh`.
    """
    sharding = NamedSharding(mesh, PartitionSpec(_LISTS))
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(
            np.shape(array), sharding, lambda index: array[index]
        ),
        batch,
    )


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Moves arrays whole to every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
