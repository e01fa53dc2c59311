"""Lines of files that may be compressed, damaged, or no text at all, read ahead in chunks."""

import dataclasses
import gzip
import io
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

from cwm_jax.errors import RecordError
from cwm_jax.files import keep_copy
from cwm_jax.records.record import Record

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
    """Whether a file exists and is gzip'd, whatever its name.

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


_KEPT_PROBLEMS = 20


@dataclasses.dataclass
class LogSummary:
    """What was read from one or more logs.

    Attributes:
        records: Lines that parsed.
        valid: Records whose measurement succeeded.
        skipped: Lines that did not parse.
        problems: `file:line: what was wrong` for the first of them.
    """

    records: int = 0
    valid: int = 0
    skipped: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    def skip(self, problem: str) -> None:
        """Counts a line that cannot be used."""
        self.skipped += 1
        if len(self.problems) < _KEPT_PROBLEMS:
            self.problems.append(problem)

    def __str__(self) -> str:
        text = f"{self.records} records ({self.valid} valid), {self.skipped} lines skipped"
        return text + "".join(f"\n  {problem}" for problem in self.problems)


def iterate_parsed(
    path: Path, parse: Callable[[bytes], Record], summary: LogSummary
) -> Iterator[Record]:
    """Streams the records of a file of lines, gzip'd or plain, skipping what does not parse.

    Args:
        path: The file.
        parse: Reads a line; raises `RecordError` if it is none.
        summary: Counts what is read and what is skipped.

    Raises:
        RecordError: The file does not exist, is empty, or holds no readable record.
    """
    before = summary.records
    first_problem = ""

    def skip(problem: str) -> None:
        nonlocal first_problem
        first_problem = first_problem or problem
        summary.skip(problem)

    for number, line in read_lines(path, skip):
        if is_blank(line):
            continue
        try:
            record = parse(line)
        except RecordError as error:
            skip(f"{path}:{number}: {error}")
            continue
        summary.records += 1
        summary.valid += record.valid
        yield record
    if summary.records == before:
        found = f"first problem: {first_problem}" if first_problem else "it is empty"
        raise RecordError(f"{path}: no readable tuning record ({found})")


def is_blank(line: bytes) -> bool:
    """Whether a line of a log is empty or a comment."""
    text = line.strip()
    return not text or text.startswith(b"#")


def read_lines(path: Path, skip: Callable[[str], None]) -> Iterator[tuple[int, bytes]]:
    """Streams the lines of a file, gzip'd or plain, with their numbers from 1.

    Args:
        path: The file.
        skip: Is told of lines that are too long, and of a rest that cannot be read.

    Raises:
        RecordError: The file is missing, or not even its first line can be read.
    """
    number = 0
    try:
        for line in iterate_lines(path):
            number += 1
            if line is None:
                skip(f"{path}:{number}: longer than {MAX_LINE_BYTES} bytes")
            else:
                yield number, line
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such log") from error
    except OSError as error:
        why = error.strerror or str(error)
        if number == 0:
            raise RecordError(f"{path}: cannot be read ({why})") from error
        skip(f"{path}:{number + 1}: the rest cannot be read ({why})")


Item = TypeVar("Item")


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yields lists of `size` items, the last one as long as what is left."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def prefetched(items: Iterator[Item]) -> Iterator[Item]:
    """Yields what `items` yields, none of it None, each made ahead in a thread."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, items, None)
        while (item := ahead.result()) is not None:
            ahead = reader.submit(next, items, None)
            yield item
