"""MetaSchedule's `MLPModel`, in PyTorch, with what it needs to run.

As TVM 0.27 has it, it cannot begin a search: the first round of a search makes it train on all
that it knows, a fifth of the workloads held out, and of one workload that is none. Pretrained on
a corpus it goes on round by round, as it is meant to.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cwm_jax.errors import CheckpointError, CwmError
from cwm_jax.tvm_bridge.metaschedule.pretraining import updates_of_corpus


def create_mlp(tvm: Any, pretrained: Path | None) -> Any:
    """Returns an `MLPModel` that a search can begin with.

    Args:
        tvm: A TVM with MetaSchedule.
        pretrained: A corpus to train it on, or a file that `save_mlp` wrote.

    Raises:
        CheckpointError: The file holds no such model.
        CorpusError: The corpus cannot be read.
        CwmError: Neither is given, or PyTorch is missing.
    """
    if pretrained is None:
        raise CwmError(
            "MetaSchedule's MLPModel cannot learn from a single workload: give --pretrain a "
            "corpus, or a file of tools/pretrain_mlp.py"
        )
    if pretrained.is_dir():
        return train_mlp(tvm, [pretrained])
    model = _new_model()
    torch = _pytorch()
    try:
        found = torch.load(pretrained, weights_only=True)
        model.trainer.state.model.load_state_dict(found["weights"])
        # It trains on all that it knows, which here would be one workload's, if that is new.
        model.trainer.state.data_size = int(found["records"])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{pretrained}: no saved MLPModel ({error})") from error
    return model


def train_mlp(tvm: Any, corpora: Sequence[Path]) -> Any:
    """Returns an `MLPModel` trained on corpora, with TVM's settings.

    Args:
        tvm: A TVM with MetaSchedule.
        corpora: Folders that `cwm collect --engine metaschedule` measured.

    Raises:
        CorpusError: One cannot be read.
        CwmError: PyTorch is missing.
    """
    model = _new_model()
    trainer = model.trainer
    trainer.frozen = True  # first the data
    for folder in corpora:
        for update in updates_of_corpus(tvm, folder):
            model.update(*update)
    trainer.frozen = False
    with _scheduler_of_old():
        trainer.train_full()
    return model


def save_mlp(model: Any, path: Path) -> None:
    """Writes the weights of an `MLPModel`, and how many records it has learned.

    TVM's own `save` pickles the records, too.
    """
    state = model.trainer.state
    found = {"weights": state.model.state_dict(), "records": state.data_size}
    path.parent.mkdir(parents=True, exist_ok=True)
    _pytorch().save(found, path)


def _new_model() -> Any:
    _pytorch()
    from tvm.s_tir.meta_schedule.cost_model.mlp_model import MLPModel

    return MLPModel()


def _pytorch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise CwmError("MetaSchedule's MLPModel needs PyTorch: pip install torch") from error
    return torch


@contextmanager
def _scheduler_of_old() -> Iterator[None]:
    """Lets TVM give `StepLR` an argument that PyTorch took until 2.6."""
    schedulers = _pytorch().optim.lr_scheduler
    current = schedulers.StepLR

    def step_lr(*arguments: Any, verbose: bool = False, **options: Any) -> Any:
        return current(*arguments, **options)

    schedulers.StepLR = step_lr
    try:
        yield
    finally:
        schedulers.StepLR = current
