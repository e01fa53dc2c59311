"""Trees of arrays on disk: all that this package asks of Orbax."""

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np


def save_arrays(path: Path, tree: Any) -> None:
    """Writes a tree of arrays to a new folder, and waits until it is there.

    Args:
        path: The folder.
        tree: Nested dicts of arrays.

    Raises:
        OSError: It cannot be written.
    """
    _check_space(path, sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path.absolute(), jax.tree.map(np.asarray, tree))
    except (ValueError, RuntimeError) as error:  # what a full disk is to the storage library
        raise OSError(str(error).partition("\n")[0]) from error
    # A note to readers of object stores that holds nothing but this machine's path.
    (path / "commit_success.txt").unlink(missing_ok=True)


def _check_space(path: Path, size: int) -> None:
    """Refuses what does not fit on the disk: the storage library prints hundreds of lines then."""
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if shutil.disk_usage(parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def restore_arrays(path: Path, like: Any) -> Any:
    """Reads a tree of arrays onto this process's first device.

    Args:
        path: The folder.
        like: The same tree, of arrays or of their shapes.

    Raises:
        ValueError: The folder holds another tree.
        OSError: It cannot be read.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), like
    )
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(path.absolute(), wanted)
    except ValueError:
        raise
    except Exception as error:  # Orbax knows no better where an array is damaged
        raise OSError(str(error).partition("\n")[0]) from error


def _checkpointer() -> Any:
    # Orbax costs a second to import, and logs at INFO what only its developers need.
    logging.getLogger("absl").setLevel(logging.WARNING)
    import orbax.checkpoint as ocp

    # Each of several hosts by itself: none waits for another.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    return ocp.StandardCheckpointer(multiprocessing_options=alone)
