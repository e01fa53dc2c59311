"""Fixtures: the TVM with Ansor, which this process loads at most once, and measured records."""

from pathlib import Path

import pytest
from hypothesis import settings

from cwm_jax.compilation import keep_compiled_programs
from cwm_jax.tvm_bridge.runtime import use

keep_compiled_programs()
# A busy machine is no fault of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def tvm():
    """The TVM that has Ansor."""
    return use("ansor")


@pytest.fixture(scope="session")
def measured_log() -> Path:
    """Records that `cwm tune` measured on a two-core x86 machine, several workloads."""
    return DATA / "measured.jsonl.gz"
