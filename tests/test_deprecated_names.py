"""Names at the places where 0.1.0 documented them work for one release, and warn."""

import importlib

import pytest

import cwm_jax
from cwm_jax.deprecated_names import MOVED, RENAMED

OLD = [
    ("cwm_jax", "load_programs"),
    ("cwm_jax.errors", "ProgramError"),
    ("cwm_jax.evaluation.metrics", "rank_metrics"),
    ("cwm_jax.model.config", "ModelConfig"),
    ("cwm_jax.ranking.adaptation", "AdaptationConfig"),
    ("cwm_jax.ranking.pairing", "PairingWarning"),
    ("cwm_jax.records.ansor_log", "LogSummary"),
    ("cwm_jax.records.ansor_log", "iterate_records"),
    ("cwm_jax.records.ansor_log", "load_records"),
    *(("cwm_jax.records.program", name) for name in RENAMED if name != "ProgramError"),
    ("cwm_jax.records.graph", "Program"),
    ("cwm_jax.tvm_bridge.ansor.planned_search", "PlannedSearch"),
]


@pytest.mark.parametrize(("module", "name"), OLD)
def test_an_old_name_warns_and_is_the_new_one(module, name):
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is now cwm_jax"):
        found = getattr(importlib.import_module(module), name)
    new = importlib.import_module(found.__module__)
    assert new.__name__ not in MOVED
    assert getattr(new, RENAMED.get(name, name)) is found


def test_a_name_that_never_was_is_an_error():
    with pytest.raises(ImportError, match="nothing"):
        from cwm_jax.records.program import nothing  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="never"):
        importlib.import_module("cwm_jax.never")
    with pytest.raises(AttributeError, match="nothing"):
        _ = cwm_jax.nothing


def test_the_public_names_are_shown():
    assert dir(cwm_jax) == sorted(dir(cwm_jax))
    for name in dir(cwm_jax):
        assert getattr(cwm_jax, name) is not None
