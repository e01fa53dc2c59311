"""Checkpoints: what is saved is loaded, and whatever is wrong is said in words."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cwm_jax.errors import CheckpointError
from cwm_jax.features.hardware import load_hardware
from cwm_jax.model.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    read_card,
    save_checkpoint,
    shipped_checkpoints,
)
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.vocabulary import VOCABULARY
from cwm_jax.model.world_model import ModelConfig
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import shape_only_graph
from cwm_jax.records.steps import Step

CONFIG = ModelConfig(latent_width=8, action_width=8, hardware_width=4, head_width=8, members=2)
SIZES = dataclasses.asdict(CONFIG)
CARD = load_hardware("cpu-x86-2core")
NAMES = {name: list(words) for name, words in VOCABULARY.items()}


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "checkpoint"
    save_checkpoint(path, Ensemble.create(CONFIG, 3), CONFIG, CARD, {"note": "n"}, {"a.txt": b"a"})
    return path


def test_what_is_saved_is_loaded(saved):
    loaded = load_checkpoint(saved)
    assert loaded.config == CONFIG
    assert loaded.hardware == CARD
    assert loaded.card["note"] == "n"
    assert (saved / "a.txt").read_bytes() == b"a"
    before = nnx.to_pure_dict(Ensemble.create(CONFIG, 3).state)
    after = nnx.to_pure_dict(loaded.model.state)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_saving_again_replaces_the_whole(saved):
    save_checkpoint(saved, Ensemble.create(CONFIG, 4), CONFIG, CARD, {"note": "new"})
    assert load_checkpoint(saved).card["note"] == "new"
    assert not (saved / "a.txt").exists()
    assert [entry.name for entry in saved.parent.iterdir()] == ["checkpoint"]


def test_a_failed_save_leaves_the_old_checkpoint(saved):
    with pytest.raises(TypeError):
        save_checkpoint(saved, Ensemble.create(CONFIG, 4), CONFIG, CARD, {"note": object()})
    assert load_checkpoint(saved).card["note"] == "n"
    assert [entry.name for entry in saved.parent.iterdir()] == ["checkpoint"]


def test_missing_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        load_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="shipped checkpoints: "):
        find_checkpoint(str(tmp_path / "none"))


def test_folder_without_a_card(tmp_path):
    with pytest.raises(CheckpointError, match=r"card\.json is missing"):
        read_card(tmp_path)


def edit_card(path: Path, **changes) -> None:
    card = json.loads((path / "card.json").read_text())
    (path / "card.json").write_text(json.dumps({**card, **changes}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 99}, "checkpoint format 99, this version reads 2"),
        ({"vocabulary": []}, r'field "vocabulary": found \[\], expected an object of lists'),
        ({"vocabulary": {}}, r'field "vocabulary\.\w+" is missing'),
        ({"vocabulary": NAMES | {"no_such": []}}, r'field "vocabulary\.no_such" is unknown'),
        ({"vocabulary": NAMES | {"tags": "a"}}, r"vocabulary\.tags\": found 'a', expected a list"),
        ({"vocabulary": NAMES | {"tags": ["a", "a"]}}, r'vocabulary\.tags": holds a word twice'),
        ({"vocabulary": NAMES | {"tags": ["a"]}}, r"parameters: cannot be loaded as a model of"),
        (
            {"vocabulary": NAMES | {"step_columns": ["a"]}},
            r"columns that this version does not compute \(step_columns: a\)",
        ),
        ({"model": None}, 'field "model": found None, expected an object'),
        ({"model": {"latent_width": 8}}, r'field "model\.\w+" is missing'),
        ({"model": SIZES | {"no_such": 8}}, r'field "model\.no_such" is unknown'),
        ({"model": SIZES | {"members": "2"}}, r"members\": found '2', expected an integer of 1"),
        ({"model": SIZES | {"members": True}}, r'members": found True, expected an integer'),
        ({"model": SIZES | {"head_width": 10**9}}, r'head_width": found 1000000000, expected'),
        ({"model": SIZES | {"head_width": 16}}, r"parameters: cannot be loaded as a model of the"),
        ({"model": SIZES | {"members": 3}}, r"parameters: cannot be loaded as a model of the"),
        ({"hardware": None}, r"card\.json: hardware: found None, expected an object"),
        ({"hardware": {"name": "x"}}, r"card\.json: hardware: field '\w+' is missing"),
        ({"hardware": dataclasses.asdict(CARD) | {"cores": "2"}}, "cores is '2', expected a num"),
        ({"hardware": dataclasses.asdict(CARD) | {"kind": []}}, r"kind \[\] or name"),
        ({"hardware": dataclasses.asdict(CARD) | {"colour": 1}}, "field 'colour' is unknown"),
        ({"engines": "ansor"}, "field \"engines\": found 'ansor', expected a list of words"),
        ({"engines": [1]}, r'field "engines": found \[1\], expected a list of words'),
        ({"split": []}, r'field "split": found \[\], expected an object of lists'),
        ({"split": {"train": 3}}, r'field "split\.train": found 3, expected a list of words'),
        ({"other_devices": 3}, 'field "other_devices": found 3, expected a list'),
        ({"files": []}, r'field "files": found \[\], expected an object'),
        ({"files": {}}, r"truncated or changed, parameters/\S+ does not match"),
    ],
)
def test_card_that_does_not_fit(saved, changes, says):
    edit_card(saved, **changes)
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(saved)


@pytest.mark.parametrize("text", ["", "[]", '"card"', "NaN", '{"format": 2', '{"format": NaN}'])
def test_what_is_no_card_is_refused(saved, text):
    (saved / "card.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"card\.json is missing or no model card"):
        load_checkpoint(saved)


def test_a_card_may_have_a_byte_order_mark(saved):
    text = (saved / "card.json").read_bytes()
    (saved / "card.json").write_bytes(b"\xef\xbb\xbf" + text)
    assert load_checkpoint(saved).config == CONFIG


def test_parameters_that_are_no_numbers_are_refused(tmp_path):
    model = Ensemble.create(CONFIG, 3)
    state = jax.tree.map(lambda leaf: leaf.at[...].set(np.nan), model.state)
    save_checkpoint(tmp_path / "nan", Ensemble(model.graphdef, state), CONFIG, CARD, {})
    with pytest.raises(CheckpointError, match="holds numbers that are not finite"):
        load_checkpoint(tmp_path / "nan")


def test_truncated_parameters(saved):
    largest = max((saved / "parameters").rglob("*"), key=lambda file: file.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="truncated or changed"):
        load_checkpoint(saved)


def replace_file(path: Path, name: str, content: bytes | bytearray) -> None:
    """Replaces a file of parameters, and its hash in the card."""
    (path / name).write_bytes(content)
    files = json.loads((path / "card.json").read_text())["files"]
    edit_card(path, files=files | {name: hashlib.sha256(content).hexdigest()})


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_parameters_that_lie_are_refused_or_loaded(saved, data):
    """A file of Orbax's is replaced, and the card says that it is meant to be so."""
    files = json.loads((saved / "card.json").read_text())["files"]
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray((saved / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        shutil.copytree(saved, path)
        replace_file(path, name, content)
        with contextlib.suppress(CheckpointError):
            load_checkpoint(path)


def test_damaged_array_is_an_error(saved):
    """The largest file holds the arrays, which Orbax reads without looking at them first."""
    largest = max((saved / "parameters").rglob("*"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    replace_file(saved, largest.relative_to(saved).as_posix(), content)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_checkpoint(saved)


def test_missing_parameters(saved):
    shutil.rmtree(saved / "parameters")
    with pytest.raises(CheckpointError, match="truncated or changed"):
        load_checkpoint(saved)


def test_unwritable_place(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(blocked / "x", Ensemble.create(CONFIG, 0), CONFIG, CARD, {})


@pytest.mark.parametrize("name", shipped_checkpoints())
def test_shipped_checkpoints_rank(name):
    path = find_checkpoint(name)
    card = read_card(path)
    assert {"data", "split", "metrics", "versions", "training"} <= card.keys()
    assert not set(card["split"]["train"]) & set(card["split"]["test"])
    graph = shape_only_graph('["f", 8]')
    schedules = [(Step("SP", (2, 0, 64, (n,), 1)),) for n in (1, 8)]
    scores = Scorer.load(path).rank_schedules(graph, schedules).score
    assert np.isfinite(scores).all()
    assert scores[0] != scores[1]


def test_something_is_shipped():
    assert "cpu-x86-2core" in shipped_checkpoints()


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.latent_width = 9  # type: ignore[misc]


_FULL_DISK = """
import resource, sys
from pathlib import Path
from cwm_jax.errors import CheckpointError
from cwm_jax.features.hardware import load_hardware
from cwm_jax.model.checkpoint import save_checkpoint
from cwm_jax.model.world_model import ModelConfig
from cwm_jax.model.ensemble import Ensemble
model = Ensemble.create(ModelConfig(), 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))
try:
    save_checkpoint(Path(sys.argv[1]), model, ModelConfig(), load_hardware("cpu-x86-2core"), {})
except CheckpointError as error:
    sys.exit(f"refused: {error}")
"""


def test_no_room_on_the_disk_leaves_the_old_checkpoint(saved):
    """A process that may not write files larger than 16 KiB stands for a disk that fills up."""
    command = [sys.executable, "-c", _FULL_DISK, str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"refused: {saved}: cannot be written" in done.stderr
    assert load_checkpoint(saved).card["note"] == "n"
    assert [entry.name for entry in saved.parent.iterdir()] == ["checkpoint"]
