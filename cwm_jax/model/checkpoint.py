"""Checkpoints: a folder with Orbax parameters and a JSON model card that describes them.

    NAME/card.json       format, model config, vocabulary, hardware, file hashes, provenance
    NAME/parameters/     Orbax (StandardCheckpointer) tree of float32 arrays

Loading reads JSON and Orbax arrays only; nothing from disk is executed. All calls of Orbax are in
this file.
"""

import dataclasses
import errno
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orjson
from flax import nnx

from cwm_jax.compilation import check_devices
from cwm_jax.errors import CheckpointError, CheckpointOutputError, HardwareError
from cwm_jax.features.hardware import HardwareCard, hardware_from_json
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.vocabulary import (
    FEATURES_OF_0_1_0,
    VOCABULARY,
    VOCABULARY_OF_0_1_0,
    Vocabulary,
    map_rows,
    stored_shapes,
    unread_columns,
)
from cwm_jax.model.world_model import ModelConfig
from cwm_jax.records.lines import without_mark

CHECKPOINT_FORMAT = 2
_CARD = "card.json"
_PARAMETERS = "parameters"
_PACKAGE = Path(__file__).resolve().parent.parent
_LARGEST = 4096
"""Largest plausible size of a model: a larger one is a typing error, and would fill the memory."""


class Checkpoint(NamedTuple):
    """Holds what `load_checkpoint` read.

    Attributes:
        model: The members with their parameters.
        config: Sizes of a member.
        hardware: The device that the model was trained for.
        card: The whole model card.
        unknown_kinds: Step kinds of this version that the model was not trained with.

    Examples:
        >>> checkpoint = load_checkpoint(find_checkpoint("cpu-x86-2core-fast"))
        >>> checkpoint.hardware.name, checkpoint.config.members, checkpoint.unknown_kinds
        ('cpu-x86-2core', 1, frozenset())
    """

    model: Ensemble
    config: ModelConfig
    hardware: HardwareCard
    card: dict[str, Any]
    unknown_kinds: frozenset[str] = frozenset()


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
            "vocabulary": VOCABULARY,
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
    """Loads a checkpoint from its folder; `find_checkpoint` finds that of a shipped one.

    Rows of parameters are mapped by the names that the card lists (`cwm_jax.model.vocabulary`).

    Args:
        path: The checkpoint's folder.

    Raises:
        CheckpointError: It is missing, truncated, of another format version, or was trained
            with columns that this version does not compute.
    """
    card = read_card(path)
    where = str(path / _CARD)
    vocabulary = _vocabulary_of(card, where)
    if unread := unread_columns(vocabulary):
        raise CheckpointError(
            f"{path}: trained with columns that this version does not compute "
            f"({', '.join(unread)[:200]}); train it again with `cwm train`"
        )
    _check_lists(card, where)
    config = _config_of(card, where)
    try:
        hardware = hardware_from_json(orjson.dumps(card.get("hardware")), f"{where}: hardware")
    except HardwareError as error:
        raise CheckpointError(str(error)) from error
    _check_files(path, card)
    try:
        model = _load_parameters(path / _PARAMETERS, config, vocabulary)
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path / _PARAMETERS}: cannot be loaded as a model of the sizes in {_CARD} ({reason})"
        ) from error
    for name, array in _named_arrays(model):
        if not bool(jnp.isfinite(array).all()):
            raise CheckpointError(f"{path / _PARAMETERS}: {name} holds numbers that are not finite")
    unknown = {*VOCABULARY["step_kinds"]} - {*vocabulary["step_kinds"]}
    return Checkpoint(model, config, hardware, card, frozenset(unknown))


def _vocabulary_of(card: Mapping[str, Any], where: str) -> Vocabulary:
    """Reads the names of a checkpoint's rows; cards of 0.1.0 hold a hash in their place."""
    if "vocabulary" not in card:
        if card.get("features") == FEATURES_OF_0_1_0:
            return VOCABULARY_OF_0_1_0
        raise CheckpointError(
            f"{where}: trained with features {card.get('features')!r}, which no release computes; "
            "train it again with `cwm train`"
        )
    found = _field(card, "vocabulary", dict, "an object of lists of words", where)
    for name in found.keys() ^ VOCABULARY.keys():
        what = "is unknown" if name in found else "is missing"
        raise CheckpointError(f'{where}: field "vocabulary.{name}" {what}')
    for name, words in found.items():
        _check_words(words, f"vocabulary.{name}", where)
        if len({*words}) < len(words):
            raise CheckpointError(f'{where}: field "vocabulary.{name}": holds a word twice')
    return found


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
        _check_words(words, name, where)


def _check_words(words: Any, name: str, where: str) -> None:
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


def _load_parameters(path: Path, config: ModelConfig, vocabulary: Vocabulary) -> Ensemble:
    model = jax.eval_shape(lambda: Ensemble.create(config, seed=0))
    shapes = stored_shapes(nnx.to_pure_dict(model.state), vocabulary)
    restored = restore_arrays(path, shapes)
    nnx.replace_by_pure_dict(model.state, map_rows(restored, vocabulary))
    return model


def save_arrays(path: Path, tree: Any) -> None:
    """Writes a tree of arrays to a new folder, and waits until it is there.

    Args:
        path: The folder.
        tree: Nested dicts of arrays.

    Raises:
        OSError: It cannot be written.
    """
    _check_space(path, sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path.absolute(), jax.tree.map(np.asarray, tree))
    except (ValueError, RuntimeError) as error:  # what a full disk is to the storage library
        raise OSError(str(error).partition("\n")[0]) from error
    # A note to readers of object stores that holds nothing but this machine's path.
    (path / "commit_success.txt").unlink(missing_ok=True)


def _check_space(path: Path, size: int) -> None:
    """Refuses what does not fit on the disk: the storage library prints hundreds of lines then."""
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if shutil.disk_usage(parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def restore_arrays(path: Path, like: Any) -> Any:
    """Reads a tree of arrays onto this process's first device.

    Args:
        path: The folder.
        like: The same tree, of arrays or of their shapes.

    Raises:
        ValueError: The folder holds another tree.
        OSError: It cannot be read.
        DeviceError: JAX has no device.
    """
    check_devices()
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), like
    )
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(path.absolute(), wanted)
    except ValueError:
        raise
    except Exception as error:  # Orbax knows no better where an array is damaged
        raise OSError(str(error).partition("\n")[0]) from error


def _checkpointer() -> Any:
    # Orbax costs a second to import, and logs at INFO what only its developers need.
    logging.getLogger("absl").setLevel(logging.WARNING)
    import orbax.checkpoint as ocp

    # Each of several hosts by itself: none waits for another.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    return ocp.StandardCheckpointer(multiprocessing_options=alone)
