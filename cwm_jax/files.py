"""Files that are written whole or not at all, outputs that are checked before the work, locks."""

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cwm_jax.errors import CwmError
from cwm_jax.interrupts import tidied

_LONGEST_ADDITION = 16
"""Bytes that names of what lies beside a result may be longer, such as `.OUT-snapshots`."""


def readable_json(data: Mapping[str, Any]) -> bytes:
    """Returns a JSON object that is small and compares well: an entry of it, or of a table, a line.

    Args:
        data: Keys and values; NumPy arrays are lists.

    Raises:
        TypeError: A value has no JSON form.
    """
    lines = []
    for key, value in data.items():
        rows = isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
        text = f"[\n  {_rows(value)}\n ]" if rows else _compact(value)
        lines.append(f" {_compact(key)}: {text}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _rows(rows: Sequence[Any]) -> str:
    return ",\n  ".join(map(_compact, rows))


def _compact(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file under its final name only when all of it is on disk.

    What is no regular file, such as `/dev/stdout`, is written to.

    Raises:
        OSError: The folder cannot be written or the disk is full; what was there stays.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.write(data)
        return
    path = path.resolve()  # not the link, the file
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            temporary.replace(path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename is None:  # a full disk
                error.filename = str(path)
            raise
    path.chmod(0o644)


def user_cache() -> Path:
    """Returns this package's folder in the user's cache, which may not be there yet.

    Raises:
        OSError: The user's home is missing: it is not made for a cache.
        RuntimeError: The user has no home.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "cwm_jax"
    home = Path.home()
    if not home.is_dir():
        raise FileNotFoundError(f"{home}: no such folder")
    return home / ".cache" / "cwm_jax"


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


class Output(NamedTuple):
    """Where a command is asked to write.

    Attributes:
        option: The command's option.
        path: Path that the user gave; None if none.
        folder: Whether it is a folder, not a file.
    """

    option: str
    path: Path | None
    folder: bool = False


def check_outputs(*outputs: Output, inputs: Sequence[Path] = ()) -> None:
    """Refuses outputs that could not be written, or would overwrite what a command did not write.

    No work is done yet. Nothing is created, and nothing that exists is changed.

    Args:
        outputs: Outputs of a command.
        inputs: Files that it reads, which no output may overwrite.

    Raises:
        CwmError: Which output, and why.
    """
    taken: dict[Path, str] = {}
    for option, path, folder in outputs:
        if path is None:
            continue
        try:
            _check(path, folder)
            place = path.resolve()
            clash = taken.setdefault(place, option)
            same = [found for found in inputs if not folder and found.resolve() == place]
        except (OSError, ValueError, RuntimeError) as error:
            raise CwmError(
                f"{option} {_shown(path)}: cannot be written ({_reason(error)})"
            ) from error
        if clash != option and path.name and not _is_special(path):
            raise CwmError(f"{option} {path}: is what {clash} names; name another")
        if same:
            raise CwmError(f"{option} {path}: is read by the same command; name another")
        _refuse_foreign(option, path)


def _kind(folder: bool) -> str:
    return "folder" if folder else "file"


def _check(path: Path, folder: bool) -> None:
    if not path.exists():  # raises where the name is too long, or a folder may not be searched
        path = path.resolve()  # a link may lead anywhere
        parent = path.parent
        while not parent.exists():
            parent = parent.parent
        longest = os.pathconf(parent, "PC_NAME_MAX") if parent.is_dir() else 255
        for name in path.relative_to(parent).parts:
            if len(os.fsencode(name)) > longest - _LONGEST_ADDITION:
                raise ValueError(f"a name of more than {longest - _LONGEST_ADDITION} bytes")
        _probe(parent)
    elif folder != path.is_dir():
        what = "a folder" if path.is_dir() else "no folder"
        raise ValueError(f"it is {what}, expected a {_kind(folder)}")
    elif folder:
        _probe(path)
    elif _is_special(path):
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
    else:
        _probe(path.resolve().parent)


_WRITTEN = {
    "--json": (b"{",),
    "--export": (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"),
    "--out": (b'{"workload_key":', b"PAR1"),
    "--report": (b"# How ",),
}
"""How what a command writes begins, by its option; what begins otherwise is somebody else's."""
_TAR = slice(257, 262), b"ustar"


def _refuse_foreign(option: str, path: Path) -> None:
    """Refuses to replace a file that begins as nothing that the option's command writes."""
    if option == "--report":
        path = path / "report.md"
    if option not in _WRITTEN or not path.is_file() or not os.access(path, os.R_OK):
        return
    with path.open("rb") as file:
        start = file.read(512)
    at, magic = _TAR
    if not start or start.startswith(_WRITTEN[option]):
        return
    if option == "--export" and start[at] == magic:
        return
    raise CwmError(
        f"{option} {path}: exists, and is nothing that this command writes; name another"
    )


def _probe(folder: Path) -> None:
    """Finds out by trying whether files can be created in a folder: permissions do not tell all."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    with tempfile.TemporaryFile(dir=folder):
        pass


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _shown(path: Path) -> str:
    """Cuts a path that is too long to be shown, and shows what is not printed."""
    text = str(path).replace("\0", "\\0")
    return text if len(text) < 200 else f"{text[:197]}..."


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lets one process at a time write a folder, which is made if it is missing.

    The lock is on the folder itself and ends with the process, however that ends. A folder that is
    still empty at the end goes again.

    Raises:
        CwmError: Another process holds the lock.
        OSError: The folder cannot be made.
    """
    with _made_folders(folder):
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            with _closing(descriptor):
                _lock(descriptor, folder)
                if _is_open_as(descriptor, folder):
                    yield
                    return


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Lets one process at a time write a file, which need not exist.

    The lock is on `.NAME.lock` beside it, since the file may be replaced. It ends with the process;
    the name goes at the end, or is taken over from a process that was killed.

    Raises:
        CwmError: Another process holds the lock.
        OSError: The folder cannot be written.
    """
    path = path.resolve()
    beside = path.with_name(f".{path.name}.lock")
    with _made_folders(path.parent):
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT, 0o644)
            with _closing(descriptor):
                _lock(descriptor, path)
                if not _is_open_as(descriptor, beside):
                    continue  # its holder has removed it since it was opened
                with tidied(lambda: beside.unlink(missing_ok=True)):
                    yield
                return


@contextlib.contextmanager
def _made_folders(folder: Path) -> Iterator[None]:
    """Removes at the end those of a folder and its parents that are missing now, and empty then."""
    lineage = [folder, *folder.parents]
    missing = lineage[: next(at for at, path in enumerate(lineage) if path.exists())]

    def tidy() -> None:
        for path in missing:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()

    with tidied(tidy):
        yield


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


_held: set[int] = set()
"""Descriptors of locks. They are closed where a program is executed, not where one is forked."""


def _close_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a forked child
            _held.remove(descriptor)
            os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Locks what is open, or says who has it.

    Raises:
        CwmError: Another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CwmError(
            f"{path}: is being written by another process{_holder(descriptor)}; wait until it "
            "ends, or name another"
        ) from None
    except OSError as error:  # some network file systems
        warnings.warn(
            f"{path}: cannot be locked here ({error.strerror}); see that no other process "
            "writes it",
            stacklevel=2,
        )


def _holder(descriptor: int) -> str:
    """Names the process that holds a lock, where the system tells."""
    inode = f":{os.fstat(descriptor).st_ino}"
    with contextlib.suppress(OSError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()  # 1: FLOCK ADVISORY WRITE PID DEVICE:INODE 0 EOF
            if fields[1] == "FLOCK" and fields[5].endswith(inode) and int(fields[4]) > 0:
                return f" ({fields[4]})"
    return ""
