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
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some editors put it before UTF-8 text; it says nothing."""
_UTF16 = "UTF-16 text: save it as UTF-8"
_UNREADABLE = {
    b"\xff\xfe": _UTF16,
    b"\xfe\xff": _UTF16,
    b"{\x00": _UTF16,
    b"[\x00": _UTF16,
    b"\x00{": _UTF16,
    b"\x00[": _UTF16,
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it with `zstd -d`, or compress it by gzip",
    b"\xfd7zXZ\x00": "compressed by xz: unpack it with `unxz`, or compress it by gzip",
    b"BZh": "compressed by bzip2: unpack it with `bunzip2`, or compress it by gzip",
    b"PK\x03\x04": "a ZIP archive: unpack it",
}
"""What begins so is no text that can be read, and what to do about it."""


def without_mark(data: bytes) -> bytes:
    """Returns UTF-8 text without the byte order mark before it."""
    return data.removeprefix(_BYTE_ORDER_MARK)


def is_packed(path: Path) -> bool:
    """Whether a file is there and gzip'd, whatever its name.

    Raises:
        OSError: It cannot be read.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def iterate_lines(path: Path) -> Iterator[bytes | None]:
    """Streams the lines of a file, gzip'd or plain; None in place of one that is too long.

    A byte order mark before a line is left out: files that have one may have been joined.

    Raises:
        OSError: The file cannot be read, is of another encoding or compression, or its compressed
            data is damaged.
    """
    with path.open("rb") as raw, _unpacked(raw) as file:
        first = True
        try:
            while line := file.readline(MAX_LINE_BYTES):
                if first:
                    _refuse_other_encodings(line)
                    first = False
                if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
                    yield without_mark(line)
                    continue
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield None
        except (EOFError, zlib.error) as error:
            raise OSError(str(error)) from error


def _refuse_other_encodings(start: bytes) -> None:
    for magic, what in _UNREADABLE.items():
        if start.startswith(magic):
            raise OSError(what)


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
