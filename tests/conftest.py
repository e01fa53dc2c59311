"""Fixtures: the TVM with Ansor, which this process loads at most once, and measured records."""

import dataclasses
import os
from pathlib import Path

import jax
import pytest
from hypothesis import settings
from support.rpc_device import running_device

from cwm_jax.bench import best_candidates
from cwm_jax.compilation import keep_compiled_programs
from cwm_jax.tuning import registry
from cwm_jax.tvm_bridge.runtime import use

# Most of a test's time was XLA's: small models are compiled far longer than they run.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
keep_compiled_programs()
if found := jax.config.values["jax_compilation_cache_dir"]:
    # Workers of xdist and commands in processes of their own share all that one of them compiled.
    SHARED = {
        "jax_compilation_cache_dir": str(Path(found).with_name(f"tests-{Path(found).name}")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in SHARED.items():
        os.environ.setdefault(name.upper(), str(value))
        jax.config.update(name, value)
# A busy machine is no fault of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

DATA = Path(__file__).parent / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the long files, so that none is left to one process at the end."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def tvm():
    """The TVM that has Ansor."""
    return use("ansor")


@pytest.fixture(scope="session")
def measured_log() -> Path:
    """Records that `cwm tune` measured on a two-core x86 machine, several workloads."""
    return DATA / "measured.jsonl.gz"


@pytest.fixture
def device(tvm):
    """A device of this machine, behind a real RPC tracker."""
    with running_device(tvm) as found:
        yield found


@pytest.fixture
def unsteady(monkeypatch) -> None:
    """Winners count on any machine: tests run beside others, and do not ask how steady it is."""
    loud = dataclasses.replace(best_candidates.WINNERS_MEASURED, tolerance=1e9, min_repeat_ms=10)
    monkeypatch.setattr(best_candidates, "WINNERS_MEASURED", loud)


@pytest.fixture
def small_searches(monkeypatch) -> None:
    """Searches of a benchmark rank few schedules a generation, for they measure few."""
    for name in ("xgboost", "random"):
        options = (*registry._RIVALS[name], "--population", "64")
        monkeypatch.setitem(registry._RIVALS, name, options)
