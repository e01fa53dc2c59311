"""Targets: the host's CPU and what a user asks for."""

import warnings
from pathlib import Path

import pytest

from cwm_jax.errors import TargetError, TvmError
from cwm_jax.tuning.ansor import targets
from cwm_jax.tuning.ansor.targets import host_target, llvm_cpu_name, resolve_target
from cwm_jax.tuning.machine import TargetWarning, usable_threads

AVX2 = {"avx", "avx2", "fma", "sse4_2"}
SKYLAKE = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"}
ICELAKE = SKYLAKE | {"avx512_vnni", "avx512_vbmi2", "vaes"}


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (ICELAKE, "icelake-server"),
        (SKYLAKE | {"avx512_vnni", "avx512_bf16"}, "cooperlake"),
        (SKYLAKE | {"avx512_vnni"}, "cascadelake"),
        (SKYLAKE, "skylake-avx512"),
        (AVX2 | {"sse4a", "clwb", "rdpid"}, "znver2"),
        (AVX2, "core-avx2"),
        ({"sse4_2"}, "nehalem"),
        (set(), None),
    ],
)
def test_best_known_cpu(flags, name):
    assert llvm_cpu_name(frozenset(flags)) == name


def test_every_cpu_name_is_known_to_the_bundled_llvm(tvm):
    target = tvm.target.Target("llvm")
    known = {str(name) for name in tvm.target.codegen.llvm_get_cpu_archlist(target)}
    for flags in (ICELAKE, SKYLAKE | {"avx512_vnni"}, SKYLAKE, AVX2, {"avx"}, {"sse4_2"}):
        assert llvm_cpu_name(frozenset(flags)) in known


def test_host_target_uses_the_widest_vectors(tvm):
    target = host_target(tvm)
    assert str(resolve_target(tvm, None)) == str(target)
    if "avx512f" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX-512")
    a = tvm.te.placeholder((1024,), name="a")
    b = tvm.te.compute((1024,), lambda i: a[i] * 2)
    schedule = tvm.te.create_schedule(b.op)
    _, inner = schedule[b].split(b.op.axis[0], 16)
    schedule[b].vectorize(inner)
    assert "zmm" in tvm.build(schedule, [a, b], target).get_source("asm")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "unknown target 'nonsense'"),
        ("llvm -foo=1", "unknown target"),
        ("vulkan", "only llvm and cuda"),
        ("cuda", "no CUDA device is present"),
        ("llvm -mtriple=riscv64-linux-gnu", "could not run it"),
        ("llvm -mcpu=z80", "does not know the CPU 'z80'"),
        # TVM crashes on these.
        (" ", "target ' ': is empty"),
        ("", "is empty"),
        ('{"kind": null}', "'kind' is null"),
        ('{"kind": "llvm", "host": {"kind": "llvm", "mcpu": null}}', "'mcpu' is null"),
        ('{"kind": "llvm", "mattr": [null]}', "'mattr' is null"),
        ("{", "is no valid JSON"),
        ("[]", "is no JSON object"),
        ("llvm -num-cores=0", "num-cores is 0, expected a positive integer"),
        ("llvm -num-cores=-1", "num-cores is -1, expected a positive integer"),
        ("llvm -num-cores=2.5", "num-cores is 2.5, expected a positive integer"),
        ("llvm -num-cores", "num-cores is not given, expected a positive integer"),
        ('{"kind": "llvm", "num-cores": -2}', "num-cores is -2"),
        ('{"kind": "llvm", "num-cores": true}', "num-cores is no number"),
        ('{"kind": "llvm", "num-cores": 99999999999}', "99999999999"),
        ('{"kind": "llvm", "keys": [" "]}', "unknown target"),
        ("llvm -mtriple=x86_64-apple-darwin", "could not run it"),
        ("llvm " + "x" * 9999, "unknown target 'llvm x{100,200}'\\.\\.\\. "),
    ],
)
def test_bad_targets(tvm, text, says):
    with pytest.raises(TargetError, match=says):
        resolve_target(tvm, text)


def test_cores_are_filled_in(tvm):
    target = resolve_target(tvm, "llvm -mcpu=core-avx2")
    assert int(target.attrs["num-cores"]) == int(host_target(tvm).attrs["num-cores"])
    assert int(resolve_target(tvm, "llvm -num-cores=1").attrs["num-cores"]) == 1
    assert str(resolve_target(tvm, ' {"kind": "llvm", "mcpu": "core-avx2"} ')) == str(target)


def test_more_cores_than_there_are_is_said(tvm):
    with pytest.warns(TargetWarning, match=f"says 4096 cores, but .* {usable_threads()};"):
        target = resolve_target(tvm, "llvm -num-cores=4096")
    assert int(target.attrs["num-cores"]) == 4096
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve_target(tvm, "llvm -num-cores=4096", remote=True)


def test_features_that_this_cpu_lacks_are_named(tvm, monkeypatch):
    monkeypatch.setattr(targets, "_cpu_flags", lambda: frozenset(AVX2))
    with pytest.raises(TargetError, match="this CPU lacks avx512f, avx512vl, so its programs"):
        resolve_target(tvm, "llvm -mattr=+avx2,+avx512f,+avx512vl")


def test_a_machine_that_cannot_build_is_said_so(tvm, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TvmError, match="C\\+\\+ compiler is needed"):
        resolve_target(tvm, None)
    compiler = tmp_path / "g++"
    compiler.write_text("")
    compiler.chmod(0o755)
    with pytest.raises(TvmError, match="tar is needed"):
        resolve_target(tvm, "llvm")
