"""Snapshots of a run under way, so that a killed run goes on to the very same parameters.

    FOLDER/00000120/snapshot.json   which run, and where in it
    FOLDER/00000120/arrays/         Orbax tree: parameters and optimizer state

A snapshot gets its name only when all of it is on disk; older ones go afterwards.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from cwm_jax.errors import CheckpointError, CheckpointOutputError
from cwm_jax.interrupts import writing
from cwm_jax.model.checkpoint import restore_arrays, save_arrays
from cwm_jax.training.config import TrainingConfig
from cwm_jax.training.dataset import WorkloadData

_POSITION = "snapshot.json"
_ARRAYS = "arrays"

State = TypeVar("State")


class Position(NamedTuple):
    """Position of a run: epoch, batch, and the curves so far.

    Attributes:
        epoch: The one under way, from 1.
        batch: Batches of it that are done.
        losses: Losses of these batches, by member.
        curves: Learning curves of the epochs before, as JSON objects.
        generator: State of NumPy's generator at the start of the epoch.
    """

    epoch: int
    batch: int
    losses: list[list[float]]
    curves: list[dict[str, float]]
    generator: dict[str, Any]


class Snapshots:
    """The snapshots of one run.

    Args:
        folder: Where they lie.
        seconds: At least so many pass between two.
    """

    def __init__(self, folder: Path, seconds: float = 60.0) -> None:
        self.folder = folder
        self._seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next; of several hosts the first one keeps them."""
        return jax.process_index() == 0 and time.monotonic() - self._last >= self._seconds

    def save(self, run: str, step: int, state: Any, position: Position) -> None:
        """Writes a snapshot, then removes the older ones.

        Args:
            run: Identity of the run (`run_identity`).
            step: Batches done since the start of the run.
            state: Arrays, any tree.
            position: Where the run is.

        Raises:
            CheckpointError: It cannot be written; the one before stays good.
        """
        with writing():
            self._write(run, step, state, position)
        self._last = time.monotonic()

    def _write(self, run: str, step: int, state: Any, position: Position) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=".snapshot-", dir=self.folder))
            try:
                save_arrays(work / _ARRAYS, _numbered(state))
                # Not orjson: the generator's state is 128 bits wide.
                text = json.dumps({"run": run, **position._asdict()})
                (work / _POSITION).write_text(text)
                work.rename(self.folder / f"{step:08}")
            finally:
                shutil.rmtree(work, ignore_errors=True)
        except OSError as error:
            raise CheckpointOutputError(f"{self.folder}: cannot be written ({error})") from error
        for old in self._finished()[:-1]:
            shutil.rmtree(old, ignore_errors=True)

    def restore(self, run: str, like: State) -> tuple[State, Position] | None:
        """Returns the content of the latest snapshot; None where there is none.

        Args:
            run: Identity of the run.
            like: A tree of the same arrays.

        Raises:
            CheckpointError: It is of another run, or cannot be read.
        """
        finished = self._finished()
        if not finished:
            return None
        latest = finished[-1]
        try:
            found = json.loads((latest / _POSITION).read_text())
            if found.pop("run") != run:
                raise CheckpointError(
                    f"{self.folder}: holds the snapshot of a run with other records or settings; "
                    "repeat that command, or remove the folder to start anew"
                )
            arrays = restore_arrays(latest / _ARRAYS, _numbered(like))
            position = Position(**found)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{latest}: cannot be read ({error})") from error
        leaves = [arrays[name] for name in _numbered(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), position

    def clear(self) -> None:
        """Removes all: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finished(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name.isdigit())


def run_identity(config: TrainingConfig, chosen: Sequence[WorkloadData], state: Any) -> str:
    """Returns a hash of everything that determines the result of a run.

    Args:
        config: Its settings.
        chosen: The workloads it trains on.
        state: Its first parameters.
    """
    digest = hashlib.sha256(repr(config).encode())
    for workload in chosen:
        digest.update(workload.key.encode())
        digest.update(workload.throughput.tobytes())
        if workload.taught is not None:
            digest.update(workload.taught.tobytes())
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _numbered(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by number: Orbax need not know optimizer states."""
    return {f"{at:04}": leaf for at, leaf in enumerate(jax.tree.leaves(tree))}
