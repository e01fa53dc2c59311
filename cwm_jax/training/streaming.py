"""Data sets larger than memory: encoded chunk by chunk, kept on disk, read as training goes.

A workload whose records lie in several chunks becomes several lists of candidates, each ranked
within itself; all are labelled by the workload's best latency.
"""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cwm_jax.errors import OutputError, RecordError
from cwm_jax.features.batch import StepArrays
from cwm_jax.features.hardware import HardwareCard
from cwm_jax.records.graph import ComputeGraph, shape_only_graph
from cwm_jax.records.lines import in_chunks
from cwm_jax.records.record import Devices, Record
from cwm_jax.training.dataset import WorkloadData, encode_workload, name_groups


class DiskArray:
    """An array of rows in a file, read by position; stands for a NumPy array in a data set.

    Attributes:
        shape: Shape, as of a NumPy array.
        dtype: Type of an element, as of a NumPy array.
    """

    def __init__(self, file: "RowFile", offset: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._file = file
        self._offset = offset
        self._row_bytes = int(np.prod(shape[1:])) * self.dtype.itemsize

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Sequence[int] | np.ndarray | slice) -> Shaped[np.ndarray, "..."]:
        """Reads rows, in the order asked for."""
        chosen = np.arange(len(self))[rows]
        out = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        for at, row in enumerate(chosen.tolist()):
            data = self._file.read(self._offset + row * self._row_bytes, self._row_bytes)
            out[at] = np.frombuffer(data, self.dtype).reshape(self.shape[1:])
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        data = self._file.read(self._offset, len(self) * self._row_bytes)
        return np.frombuffer(data, self.dtype).reshape(self.shape).astype(dtype or self.dtype)


class RowFile:
    """A file that arrays are appended to, and read from in parts.

    Args:
        path: Created, or emptied.

    Raises:
        OutputError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error})") from error

    def append(self, array: Shaped[np.ndarray, "row ..."]) -> DiskArray:
        """Writes an array and returns it as it lies on disk.

        Raises:
            OutputError: It cannot be written.
        """
        offset = self._size
        data = memoryview(array.tobytes())
        try:
            while data:
                written = os.pwrite(self._handle, data, self._size)
                self._size += written
                data = data[written:]
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error})") from error
        return DiskArray(self, offset, array.shape, array.dtype)

    def read(self, offset: int, size: int) -> bytes:
        """Reads bytes."""
        return os.pread(self._handle, size, offset)

    def close(self) -> None:
        """Closes and removes the file."""
        os.close(self._handle)
        self._path.unlink(missing_ok=True)


CHUNK = 32768
"""Records that are in memory at once."""

_Group = tuple[str, int]
"""Workload key and number of the device."""

_LARGE = ("kind", "tag", "stage", "other", "values")


def stream_dataset(
    records: Iterable[Record],
    graphs: Mapping[str, ComputeGraph],
    hardware: HardwareCard,
    file: RowFile,
    chunk: int = CHUNK,
) -> dict[str, WorkloadData]:
    """Encodes valid records as `build_dataset` does, but keeps the schedules on disk.

    Args:
        records: Records; those of one workload are grouped by device.
        graphs: Compute graphs by workload key; workloads without one are shape-only.
        hardware: The device that measured them.
        file: Where the encoded schedules go.
        chunk: Records in memory at once.

    Returns:
        Parts of workloads by name; `WorkloadData.key` is the workload of a part.

    Raises:
        RecordError: No workload has two valid measurements in one chunk.
    """
    parts: dict[_Group, list[WorkloadData]] = defaultdict(list)
    devices = Devices()
    for group, members in _groups(records, chunk, devices):
        key = group[0]
        encoded = encode_workload(members, graphs.get(key) or shape_only_graph(key), hardware)
        parts[group].append(_on_disk(encoded, file))
    if not parts:
        raise RecordError("no workload has two valid measurements, so there is nothing to rank")
    found: dict[str, WorkloadData] = {}
    names = name_groups(parts, devices)
    for group, of_workload in sorted(parts.items()):
        best = min(float(part.latencies.min()) for part in of_workload)
        for at, part in enumerate(of_workload):
            name = f"{names[group]}#{at}" if at else names[group]
            share = np.float32(best / float(part.latencies.min()))
            throughput = part.throughput * share
            found[name] = dataclasses.replace(part, throughput=throughput)
    return found


def _groups(
    records: Iterable[Record], chunk: int, devices: Devices
) -> Iterator[tuple[_Group, list[Record]]]:
    """Valid records by group, of one chunk after another; a lone one waits for the next."""
    waiting: dict[_Group, list[Record]] = {}
    for loaded in in_chunks(records, chunk):
        groups: dict[_Group, list[Record]] = defaultdict(list, waiting)
        for record in loaded:
            if record.valid:
                groups[record.workload_key, devices.position(record)].append(record)
        waiting = {group: members for group, members in groups.items() if len(members) == 1}
        for group, members in sorted(groups.items()):
            if group not in waiting:
                yield group, members


def _on_disk(workload: WorkloadData, file: RowFile) -> WorkloadData:
    steps = workload.steps
    large = {name: file.append(getattr(steps, name)) for name in _LARGE}
    on_disk = StepArrays(**large, length=steps.length, slots=steps.slots)  # type: ignore[arg-type]
    return dataclasses.replace(workload, steps=on_disk)
