"""Targets of today's TVM: what a user asks for."""

import warnings

import pytest

from cwm_jax.errors import TargetError
from cwm_jax.tuning.machine import TargetWarning
from cwm_jax.tuning.metaschedule.targets import host_target, resolve_target


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "unknown target 'nonsense'"),
        (" ", "target ' ': is empty"),
        ('{"kind": null}', "'kind' is null"),
        ('{"kind": "llvm"', "is no valid JSON"),
        ("llvm -num-cores=2", "unknown target .* for example"),
        ('{"kind": "llvm", "num-cores": 0}', "num-cores is 0, expected a positive integer"),
        ('{"kind": "llvm", "num-cores": -2}', "num-cores is -2"),
        ('{"kind": "llvm", "num-cores": true}', "num-cores is no number"),
        ('{"kind": "llvm", "num-cores": 99999999999}', "num-cores is 99999999999"),
        ('{"kind": "llvm", "mcpu": "z80"}', "does not know 'z80'"),
        ('{"kind": "llvm", "mtriple": "riscv64-linux-gnu"}', "could not run it"),
        ("webgpu", "was built without webgpu"),
        ("c", "was built without c"),
        ("ext_dev", "was built without ext_dev"),
    ],
)
def test_bad_targets(tvm, text, says):
    with pytest.raises(TargetError, match=says):
        resolve_target(tvm, text)


def test_this_machines_own_target_passes(tvm):
    own = host_target(tvm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(resolve_target(tvm, str(own))) == str(own)
        assert str(resolve_target(tvm, " llvm ").kind.name) == "llvm"


def test_features_that_this_cpu_lacks_are_named(tvm):
    found = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    lacking = next((str(name) for name, present in found.items() if not bool(present)), None)
    if lacking is None:
        pytest.skip("this CPU has all that LLVM knows")
    with pytest.raises(TargetError, match=f"this CPU lacks {lacking}, so its programs"):
        resolve_target(tvm, f'{{"kind": "llvm", "mattr": ["+{lacking}"]}}')


def test_more_cores_than_there_are_is_said(tvm):
    many = '{"kind": "llvm", "num-cores": 4096}'
    with pytest.warns(TargetWarning, match="says 4096 cores"):
        resolve_target(tvm, many)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve_target(tvm, many, remote=True)
