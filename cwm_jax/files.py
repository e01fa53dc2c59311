"""Files that are written whole or not at all, and files that only grow."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file under its final name only when all of it is on disk.

    Raises:
        OSError: The folder cannot be written or the disk is full; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    path.chmod(0o644)


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Appends lines to a file, on a new line where its last one is not ended.

    Args:
        path: Made if it is missing and there are lines.
        lines: Without line ends.

    Raises:
        OSError: The file cannot be written.
    """
    text = b"".join(line + b"\n" for line in lines)
    if not text and not path.exists():
        return
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = b"\n" + text
        file.write(text)


def keep_copy(path: Path) -> Path:
    """Copies a file before it is mended, beside it under a name of its own; returns the copy.

    Raises:
        OSError: The folder cannot be written.
    """
    number = 1
    while (copy := path.with_name(f"{path.name}.backup{number}")).exists():
        number += 1
    shutil.copy2(path, copy)
    return copy
