"""Checkpoints name the rows of their parameters, so that vocabularies may grow and be reordered."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import cwm_jax
from cwm_jax.errors import CheckpointError
from cwm_jax.model.checkpoint import find_checkpoint, load_checkpoint, shipped_checkpoints
from cwm_jax.model.vocabulary import (
    FEATURES_OF_0_1_0,
    VOCABULARY,
    VOCABULARY_OF_0_1_0,
    map_rows,
)

PACKAGE = Path(cwm_jax.__file__).parent
SHIPPED = find_checkpoint("cpu-x86-2core-fast")

EDITS = {
    "records/steps.py": [
        (
            '    "FU": _fields',
            '    "XX": _fields(stage=Role.STAGE, word=Role.TAG),\n    "FU": _fields',
        ),
        ("PRAGMAS = (", 'PRAGMAS = ("new_tag", '),
    ],
    "features/columns.py": [("SIZES = (", 'SIZES = ("new_size", ')],
    "features/step_features.py": [
        ("_APPLY = {", '_APPLY = {\n    "XX": Replay._set_scope,'),
    ],
    "features/hardware.py": [
        ('("is_cpu", "is_gpu",', '("is_cpu", "is_gpu", "is_npu",'),
        ('card.kind == "gpu", *numbers', 'card.kind == "gpu", 0, *numbers'),
    ],
}
"""A kind, a tag and columns that stand in front of others."""

RANK = """
import json, sys, warnings
from pathlib import Path
import cwm_jax
from cwm_jax.records.graph import shape_only_graph
from cwm_jax.records.steps import STEPS, Step
log = Path(sys.argv[1])
scorer = cwm_jax.Scorer.load(sys.argv[2])
found = scorer.score(cwm_jax.load_records(log, valid_only=True), cwm_jax.load_graphs(log)).tolist()
said = []
if "XX" in STEPS:
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            schedule = (Step("XX", (2, "new_tag")),)
            score = scorer.rank_schedules(shape_only_graph("[1]"), [schedule]).score[0]
            assert score == score
        said += [str(warning.message) for warning in caught]
print(json.dumps([cwm_jax.__file__, found, said]))
"""


def rank(folder: Path, log: Path) -> list:
    command = [sys.executable, "-c", RANK, str(log.absolute()), str(SHIPPED.absolute())]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_version_with_more_names_loads_and_ranks_as_before(tmp_path, measured_log):
    shutil.copytree(PACKAGE, tmp_path / "cwm_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name, edits in EDITS.items():
        path = tmp_path / "cwm_jax" / name
        text = path.read_text()
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path.write_text(text)
    _, before, _ = rank(PACKAGE.parent, measured_log)
    place, after, said = rank(tmp_path, measured_log)
    assert Path(place).is_relative_to(tmp_path)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    (warning,) = said
    assert "trained without step kinds XX" in warning


def test_rows_follow_their_names():
    """Kinds that are unknown get zeros, tags the row of `<other>`; rows behind the names stay."""
    kinds = VOCABULARY["step_kinds"]
    stored = {name: list(words) for name, words in VOCABULARY.items()}
    stored["step_kinds"] = [*kinds[:0:-1], "gone"]
    stored["tags"].remove("vthread")
    stored["graph_columns"] = stored["graph_columns"][1:]
    tags, columns = len(stored["tags"]), len(stored["graph_columns"])
    parameters = {
        "step": {
            "kind": {"embedding": jnp.arange(1.0, len(kinds) + 1)[None, :, None]},
            "tag": {"embedding": jnp.arange(1.0, tags + 1)[None, :, None]},
        },
        "program": {"whole": {"kernel": jnp.arange(1.0, columns + 3)[None, :, None]}},
        "head": {"score": {"kernel": jnp.ones((1, 2, 3))}},
    }
    found = map_rows(parameters, stored)
    kind = found["step"]["kind"]["embedding"][0, :, 0]
    assert kind[0] == 0
    assert kind[1:].tolist() == list(range(len(kinds) - 1, 0, -1))
    tag = dict(zip(VOCABULARY["tags"], found["step"]["tag"]["embedding"][0, :, 0], strict=True))
    assert tag["vthread"] == tag["<other>"] == 2
    assert tag["tensorize"] == stored["tags"].index("tensorize") + 1
    whole = found["program"]["whole"]["kernel"][0, :, 0]
    assert whole.tolist() == [0.0, *range(1, columns + 3)]
    assert found["head"]["score"]["kernel"] is parameters["head"]["score"]["kernel"]


@pytest.mark.parametrize("name", shipped_checkpoints())
def test_shipped_cards_list_the_names_of_0_1_0(name):
    card = load_checkpoint(find_checkpoint(name)).card
    assert card["vocabulary"] == {name: [*words] for name, words in VOCABULARY_OF_0_1_0.items()}


def test_a_card_of_0_1_0_holds_a_hash_in_place_of_names(tmp_path, measured_log):
    path = tmp_path / "old"
    shutil.copytree(SHIPPED, path)
    card = json.loads((path / "card.json").read_text())
    del card["vocabulary"]
    (path / "card.json").write_text(json.dumps(card | {"features": FEATURES_OF_0_1_0}))
    records = cwm_jax.load_records(measured_log, valid_only=True)[:20]
    old, new = (cwm_jax.Scorer.load(folder).score(records, {}) for folder in (path, SHIPPED))
    np.testing.assert_array_equal(old, new)
    for features in ("0" * 16, None):
        (path / "card.json").write_text(json.dumps(card | {"features": features}))
        with pytest.raises(CheckpointError, match=f"trained with features {features!r}"):
            load_checkpoint(path)
