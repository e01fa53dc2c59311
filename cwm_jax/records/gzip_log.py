"""Logs that grow by whole gzip members: compressed on disk, and mended after a kill."""

import gzip
import os
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from cwm_jax.errors import RecordError
from cwm_jax.files import keep_copy

_CHUNK = 1 << 14


def append_member(path: Path, lines: Iterable[str]) -> None:
    """Appends lines as one gzip member and waits until the disk has it.

    Args:
        path: Log to append to, created if absent.
        lines: Without line ends.
    """
    data = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def drop_unfinished_member(path: Path) -> int:
    """Cuts off a last member that a kill left unfinished; a copy of the file as it was is kept.

    Returns:
        How many bytes were cut.

    Raises:
        RecordError: The file is no gzip file.
    """
    size = path.stat().st_size
    good = 0
    with path.open("rb") as file:
        while good < size:
            try:
                end = _member_end(file, good)
            except zlib.error as error:
                if good == 0:
                    raise RecordError(f"{path}: not a gzip file ({error})") from error
                end = None
            if end is None:
                break
            good = end
    if good < size:
        copy = keep_copy(path)
        warnings.warn(
            f"{path}: its last {size - good} bytes were cut off and are left out; {copy} is as it "
            "was",
            stacklevel=2,
        )
        with path.open("rb+") as file:
            file.truncate(good)
    return size - good


def _member_end(file: BinaryIO, start: int) -> int | None:
    """Where the member that starts at `start` ends, None if it does not."""
    file.seek(start)
    decoder = zlib.decompressobj(wbits=31)
    while chunk := file.read(_CHUNK):
        decoder.decompress(chunk)
        if decoder.eof:
            return file.tell() - len(decoder.unused_data)
    return None
