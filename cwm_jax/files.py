"""Files that are written whole or not at all."""

import os
import tempfile
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
