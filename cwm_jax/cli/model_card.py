"""What the card of a checkpoint says of its training."""

import hashlib
import importlib.metadata
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cwm_jax import __version__
from cwm_jax.records.metaschedule.database import database_files

_VERSIONS_OF = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


def trained_on(card: Mapping[str, Any], keys: Sequence[str]) -> set[str]:
    """Returns the workloads that a checkpoint was trained on, on whatever device.

    Args:
        card: Its model card.
        keys: Workload keys to choose from.
    """
    split = card.get("split", {})
    seen = {hashed for part, hashes in split.items() if part != "test" for hashed in hashes}
    return {key for key in keys if key_hash(key) in seen}


def key_hash(workload_key: str) -> str:
    """Returns the short hash by which a model card names a workload."""
    return hashlib.sha256(workload_key.encode()).hexdigest()[:12]


def describe_file(path: Path) -> dict[str, Any]:
    """Returns a file's name, digest and size; of a database's folder, those of its records.

    What was read from a pipe is gone: only its name is known.
    """
    file = database_files(path)[1] if path.is_dir() else path
    if not file.is_file():
        return {"file": path.name}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {
        "file": path.name or path.resolve().name,
        "sha256": digest,
        "bytes": file.stat().st_size,
    }


def versions() -> dict[str, str]:
    """Returns the versions of this package and of what it trains with."""
    others = {name: importlib.metadata.version(name) for name in _VERSIONS_OF}
    return {"cwm-jax": __version__, **others}


def git_commit() -> str | None:
    """Returns the commit of the clone that this package runs from, if it runs from one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
