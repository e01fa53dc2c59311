"""Which checkpoint a machine gets by default."""

import pytest

from cwm_jax.errors import CorpusError
from cwm_jax.features.hardware import Caches, host_caches, load_hardware
from cwm_jax.model.checkpoint import checkpoints_folder, read_card
from cwm_jax.ranking import catalog as nearest
from cwm_jax.ranking.catalog import nearest_checkpoint
from cwm_jax.ranking.task_ranker import shipped_scorers
from cwm_jax.tuning.machine import machine_identity, note_machine


def _index(folder, name, kind, level, size):
    (folder / name).mkdir(parents=True)
    for field, text in (("type", kind), ("level", level), ("size", size)):
        (folder / name / field).write_text(text + "\n")


def test_caches_are_read_from_the_system(tmp_path):
    _index(tmp_path, "index0", "Data", "1", "48K")
    _index(tmp_path, "index1", "Instruction", "1", "32K")
    _index(tmp_path, "index2", "Unified", "2", "1024K")
    assert host_caches(tmp_path) == Caches(48, 1024, 0)
    assert host_caches(tmp_path / "missing") == Caches(0, 0, 0)


def test_a_folder_of_another_generation_of_one_cpu_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", "2")
    note = tmp_path / "machine.json"
    here = machine_identity("llvm")
    note_machine(note, here | {"caches_kib": [1, 2, 3]})
    with pytest.raises(CorpusError, match="was measured with caches_kib"):
        note_machine(note, here)


@pytest.mark.parametrize(
    ("engine", "hardware", "name"),
    [
        ("ansor", "cpu-x86-2core", "cpu-x86-2core"),
        ("ansor", "cpu-x86-zen5", "cpu-x86-zen5"),
        ("metaschedule", "cpu-x86-zen4", "cpu-x86-zen4"),
        ("metaschedule", "cpu-x86-zen5", "cpu-x86-zen5-metaschedule"),
    ],
)
def test_a_machine_gets_the_checkpoint_that_is_its_own(engine, hardware, name):
    card = load_hardware(hardware)
    caches = Caches(int(card.l1_kib), int(card.l2_kib), int(card.l3_kib))
    assert nearest_checkpoint(engine, caches) == name


def test_a_machine_that_tells_nothing_gets_a_checkpoint_for_a_cpu():
    for engine in ("ansor", "metaschedule"):
        name = nearest_checkpoint(engine, Caches(0, 0, 0))
        assert read_card(checkpoints_folder() / name)["hardware"]["kind"] == "cpu"


@pytest.mark.parametrize("name", ["cpu-x86-zen5", "cpu-x86-emr"])
def test_other_checkpoints_are_asked_in_the_order_of_their_likeness(name, monkeypatch):
    card = load_hardware(name)
    caches = Caches(int(card.l1_kib), int(card.l2_kib), int(card.l3_kib))
    monkeypatch.setattr(nearest, "host_caches", lambda: caches)
    scorers = shipped_scorers("ansor", "cpu")
    assert scorers[0].hardware.name == name
    assert len(scorers) > 2
    assert {scorer.hardware.kind for scorer in scorers} == {"cpu"}
    assert {scorer.hardware.kind for scorer in shipped_scorers("ansor", "gpu")} == {"gpu"}
