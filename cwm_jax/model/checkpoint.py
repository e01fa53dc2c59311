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
import jax.numpy as jnp
import orjson
from flax import nnx

from cwm_jax.errors import CheckpointError, CheckpointOutputError, HardwareError
from cwm_jax.features.graph import GLOBAL_COLUMNS, STAGE_COLUMNS
from cwm_jax.features.hardware import HardwareCard, hardware_from_json
from cwm_jax.features.step_features import COLUMNS
from cwm_jax.model.config import ModelConfig
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.orbax_files import restore_arrays, save_arrays
from cwm_jax.model.world_model import create_ensemble, create_model
from cwm_jax.records.lines import without_mark
from cwm_jax.records.steps import vocabulary_hash

CHECKPOINT_FORMAT = 2
_CARD = "card.json"
_PARAMETERS = "parameters"
_LARGEST = 4096
"""Size of a model that is plausible: a larger one is a slip of the pen, and fills the memory."""


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
        card = orjson.loads(without_mark((path / _CARD).read_bytes()))
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
    where = str(path / _CARD)
    _check_lists(card, where)
    config = _config_of(card, where)
    try:
        hardware = hardware_from_json(orjson.dumps(card.get("hardware")), f"{where}: hardware")
    except HardwareError as error:
        raise CheckpointError(str(error)) from error
    _check_files(path, card)
    try:
        model = _load_parameters(path / _PARAMETERS, config)
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path / _PARAMETERS}: cannot be loaded as a model of the sizes in {_CARD} ({reason})"
        ) from error
    for name, array in _named_arrays(model):
        if not bool(jnp.isfinite(array).all()):
            raise CheckpointError(f"{path / _PARAMETERS}: {name} holds numbers that are not finite")
    return Checkpoint(model, config, hardware, card)


def _config_of(card: Mapping[str, Any], where: str) -> ModelConfig:
    """Reads the sizes of a model."""
    sizes = _field(card, "model", dict, "an object", where, required=True)
    for name in sizes.keys() ^ {field.name for field in dataclasses.fields(ModelConfig)}:
        what = "is unknown" if name in sizes else "is missing"
        raise CheckpointError(f'{where}: field "model.{name}" {what}')
    for name, value in sizes.items():
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise CheckpointError(
                f'{where}: field "model.{name}": found {_shown(value)}, expected an integer of 1 '
                f"to {_LARGEST}"
            )
    return ModelConfig(**sizes)


def _check_lists(card: Mapping[str, Any], where: str) -> None:
    """Checks the fields that say what a checkpoint has learned from."""
    engines = _field(card, "engines", list, "a list of words", where)
    split = _field(card, "split", dict, "an object of lists of words", where)
    _field(card, "other_devices", list, "a list", where)
    for name, words in (("engines", engines), *((f"split.{n}", w) for n, w in split.items())):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise CheckpointError(
                f'{where}: field "{name}": found {_shown(words)}, expected a list of words'
            )


def _field(
    card: Mapping[str, Any],
    name: str,
    kind: type,
    expected: str,
    where: str,
    *,
    required: bool = False,
) -> Any:
    """Returns a field of a card, or an empty one."""
    if name not in card and not required:
        return kind()
    value = card.get(name)
    if not isinstance(value, kind):
        found = _shown(value) if name in card else "nothing"
        raise CheckpointError(f'{where}: field "{name}": found {found}, expected {expected}')
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_files(path: Path, card: Mapping[str, Any]) -> None:
    """Checks that the parameters are those that the card is of."""
    known = _field(card, "files", dict, "an object of hashes", str(path / _CARD), required=True)
    found = _file_hashes(path)
    if found != known:
        missing, changed = sorted(known.keys() - found), sorted(found.keys() - known)
        changed += sorted(name for name in found.keys() & known if found[name] != known[name])
        what = f"{missing[0]} is missing" if missing else f"{changed[0]} does not match {_CARD}"
        raise CheckpointError(
            f"{path}: truncated or changed, {what} ({len(missing) + len(changed)} of "
            f"{len(known)} files); restore it, or train it again with `cwm train`"
        )


def _named_arrays(model: Ensemble) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(model.state))
    return [(jax.tree_util.keystr(where), array) for where, array in leaves]


def _file_hashes(path: Path) -> dict[str, str]:
    files = sorted(file for file in (path / _PARAMETERS).rglob("*") if file.is_file())
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _load_parameters(path: Path, config: ModelConfig) -> Ensemble:
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: create_model(config, seed=0)))
    state = jax.eval_shape(lambda: create_ensemble(config, seed=0).state)
    restored = restore_arrays(path, nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, restored)
    return Ensemble(graphdef, state)
