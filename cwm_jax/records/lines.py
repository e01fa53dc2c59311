"""Lines of files that may be compressed, damaged, or no text at all."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

MAX_LINE_BYTES = 4 * 2**20
"""No line of a log or of a file of programs is longer; the bound keeps a binary file, or a small
gzip file that unpacks to a huge one, from filling the memory."""

_GZIP_MAGIC = b"\x1f\x8b"


def iterate_lines(path: Path) -> Iterator[bytes | None]:
    """Streams the lines of a file, gzip'd or plain; None in place of one that is too long.

    Raises:
        OSError: The file cannot be read, or its compressed data is damaged.
    """
    with path.open("rb") as raw, _unpacked(raw) as file:
        try:
            while line := file.readline(MAX_LINE_BYTES):
                if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
                    yield line
                    continue
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield None
        except (EOFError, zlib.error) as error:
            raise OSError(str(error)) from error


def _unpacked(raw: io.BufferedReader) -> gzip.GzipFile | io.BufferedReader:
    return gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == _GZIP_MAGIC else raw


def every_line(path: Path) -> Iterator[tuple[int, bytes]]:
    """Streams the lines of a file of which none may be lost, with their numbers from 1.

    Raises:
        OSError: The file cannot be read, is damaged, or holds a line that is too long.
    """
    for number, line in enumerate(iterate_lines(path), start=1):
        if line is None:
            raise OSError(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
        yield number, line
