"""TVM's tensor intrinsics are there, and nothing of how they were imported is left."""

import importlib
import inspect
import subprocess
import sys

import pytest

from cwm_jax.tvm_bridge.metaschedule import builder as intrinsics


def test_inspect_is_as_it_was(tvm, monkeypatch):
    intrinsics.load_intrinsics()
    assert "tvm.s_tir.tensor_intrin" in sys.modules
    assert tvm.s_tir.TensorIntrin.get("dot_16x4_vnni") is not None
    assert inspect.getmodule(intrinsics.load_intrinsics) is intrinsics

    def broken(name):
        assert inspect.getmodule(intrinsics.load_intrinsics) is None
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError):
        intrinsics.load_intrinsics()
    assert inspect.getmodule(intrinsics.load_intrinsics) is intrinsics


def test_a_script_is_imported_without_what_only_a_search_needs():
    """Every process that builds imports a user's script."""
    code = "import sys; from cwm_jax.tvm_bridge.metaschedule import WorldModelCostModel"
    code += "; print({'scipy.stats', 'tvm.s_tir.tensor_intrin', 'tvm'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "{'tvm'}"
