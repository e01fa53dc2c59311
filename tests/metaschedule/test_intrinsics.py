"""TVM's tensor intrinsics are there, and nothing of how they were imported is left."""

import importlib
import inspect
import sys

import pytest

from cwm_jax.tvm_bridge.metaschedule import intrinsics


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
