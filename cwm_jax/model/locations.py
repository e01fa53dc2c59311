"""Where the shipped checkpoints lie."""

from pathlib import Path

from cwm_jax.errors import CheckpointError

_PACKAGE = Path(__file__).resolve().parent.parent


def checkpoints_folder() -> Path:
    """Returns the folder of shipped checkpoints: in the installed package, or in the clone."""
    installed = _PACKAGE / "checkpoints"
    return installed if installed.is_dir() else _PACKAGE.parent / "checkpoints"


def shipped_checkpoints() -> tuple[str, ...]:
    """Returns the names of the shipped checkpoints."""
    return tuple(sorted(card.parent.name for card in checkpoints_folder().glob("*/card.json")))


def find_checkpoint(name: str) -> Path:
    """Finds a checkpoint by the name of a shipped one, or by path.

    Raises:
        CheckpointError: There is none.
    """
    if name in shipped_checkpoints():
        return checkpoints_folder() / name
    if Path(name).is_dir():
        return Path(name)
    shipped = ", ".join(shipped_checkpoints()) or "none"
    raise CheckpointError(f"{name}: no such checkpoint folder; shipped checkpoints: {shipped}")
