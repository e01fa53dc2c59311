"""Checkpoints: a folder with Orbax parameters and a JSON model card that describes them.

    NAME/card.json       format, model config, vocabulary, hardware, file hashes, provenance
    NAME/parameters/     Orbax (StandardCheckpointer) tree of float32 arrays

Loading reads JSON and Orbax arrays only; nothing from disk is executed.
"""

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orjson
from flax import nnx

from cwm_jax.errors import CheckpointError, CheckpointOutputError, HardwareError
from cwm_jax.features.hardware import HardwareCard, hardware_from_json
from cwm_jax.features.program import GLOBAL_COLUMNS, STAGE_COLUMNS
from cwm_jax.features.replay import COLUMNS
from cwm_jax.model.config import ModelConfig
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.orbax_files import restore_arrays, save_arrays
from cwm_jax.model.world_model import create_ensemble, create_model
from cwm_jax.records.steps import vocabulary_hash

CHECKPOINT_FORMAT = 2
_CARD = "card.json"
_PARAMETERS = "parameters"


class Checkpoint(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        model: The members with their parameters.
        config: Its sizes.
        hardware: The device that it was trained for.
        card: The whole model card.
    """

    model: Ensemble
    config: ModelConfig
    hardware: HardwareCard
    card: dict[str, Any]


def features_hash() -> str:
    """Returns 16 hex digits that change when the vocabulary or any feature column does."""
    columns = [vocabulary_hash(), list(COLUMNS), STAGE_COLUMNS, GLOBAL_COLUMNS]
    return hashlib.sha256(orjson.dumps(columns)).hexdigest()[:16]


def save_checkpoint(
    path: Path,
    model: Ensemble,
    config: ModelConfig,
    hardware: HardwareCard,
    provenance: Mapping[str, Any],
    extra_files: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a checkpoint; a previous one at `path` is replaced only once this one is whole.

    Args:
        path: The checkpoint's folder.
        model: The model.
        config: Its sizes.
        hardware: The device that it was trained for.
        provenance: Data, split, metrics and versions, for the model card.
        extra_files: Files to lay beside the card, by name.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise CheckpointOutputError(f"{path}: cannot be written ({error})") from error
    try:
        save_arrays(work / _PARAMETERS, nnx.to_pure_dict(model.state))
        card = {
            "format": CHECKPOINT_FORMAT,
            "features": features_hash(),
            "model": dataclasses.asdict(config),
            "hardware": dataclasses.asdict(hardware),
            **provenance,
            "files": _file_hashes(work),
        }
        (work / _CARD).write_bytes(orjson.dumps(card, option=orjson.OPT_INDENT_2) + b"\n")
        for name, content in (extra_files or {}).items():
            (work / name).write_bytes(content)
        work.chmod(0o755)
        _replace_folder(work, path)
    except OSError as error:
        raise CheckpointOutputError(f"{path}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}-old-{os.getpid()}")
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def read_card(path: Path) -> dict[str, Any]:
    """Reads and checks a model card.

    Raises:
        CheckpointError: There is no checkpoint, or it is of another format.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint folder")
    try:
        card = orjson.loads((path / _CARD).read_bytes())
        found = card["format"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {_CARD} is missing or no model card ({error})") from error
    if found != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {found!r}, this version reads {CHECKPOINT_FORMAT}; "
            "train it again with `cwm train`"
        )
    return card


def load_checkpoint(path: Path) -> Checkpoint:
    """Loads a checkpoint.

    Raises:
        CheckpointError: It is missing, truncated, of another format version, or was trained
            with other features than this version computes.
    """
    card = read_card(path)
    if card.get("features") != features_hash():
        raise CheckpointError(
            f"{path}: trained with features {card.get('features')!r}, this version computes "
            f"{features_hash()!r}; train it again with `cwm train`"
        )
    if _file_hashes(path) != card.get("files"):
        raise CheckpointError(f"{path}: truncated or changed, its files do not match {_CARD}")
    try:
        config = ModelConfig(**card["model"])
        hardware = hardware_from_json(orjson.dumps(card["hardware"]), str(path / _CARD))
        model = _load_parameters(path / _PARAMETERS, config)
    except (KeyError, TypeError, ValueError, OSError, HardwareError) as error:
        raise CheckpointError(f"{path}: cannot be loaded ({error})") from error
    return Checkpoint(model, config, hardware, card)


def _file_hashes(path: Path) -> dict[str, str]:
    files = sorted(file for file in (path / _PARAMETERS).rglob("*") if file.is_file())
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _load_parameters(path: Path, config: ModelConfig) -> Ensemble:
    graph, _ = nnx.split(nnx.eval_shape(lambda: create_model(config, seed=0)))
    state = jax.eval_shape(lambda: create_ensemble(config, seed=0).state)
    restored = restore_arrays(path, nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, restored)
    return Ensemble(graph, state)
