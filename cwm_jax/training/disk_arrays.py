"""Arrays that stay on disk: only the rows asked for are read, so memory is bounded."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cwm_jax.errors import OutputError


class DiskArray:
    """An array of rows in a file, read by position; stands for a NumPy array in a data set.

    Attributes:
        shape: As of a NumPy array.
        dtype: Likewise.
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
