"""Learning curves for TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

from cwm_jax.errors import CwmError, OutputError
from cwm_jax.training.loop import Epoch


def write_curves(folder: Path, curves: Sequence[Epoch]) -> None:
    """Writes an event file that TensorBoard reads.

    Args:
        folder: Where TensorBoard looks.
        curves: One line an epoch.

    Raises:
        CwmError: The `tensorboard` extra is not installed, or the folder cannot be written.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise CwmError("--tensorboard: pip install 'cwm-jax[tensorboard]' first") from error
    try:
        with SummaryWriter(str(folder)) as writer:
            for epoch in curves:
                for name, value in epoch._asdict().items():
                    if name != "epoch":
                        writer.add_scalar(name, value, epoch.epoch)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error})") from error
