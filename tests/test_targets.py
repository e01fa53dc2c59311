"""Targets: the host's CPU and what a user asks for."""

from pathlib import Path

import pytest

from cwm_jax.errors import TargetError
from cwm_jax.tvm_bridge.ansor.targets import host_target, llvm_cpu_name, resolve_target

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
    ],
)
def test_bad_targets(tvm, text, says):
    with pytest.raises(TargetError, match=says):
        resolve_target(tvm, text)


def test_cores_are_filled_in(tvm):
    target = resolve_target(tvm, "llvm -mcpu=core-avx2")
    assert int(target.attrs["num-cores"]) == int(host_target(tvm).attrs["num-cores"])
    assert int(resolve_target(tvm, "llvm -num-cores=7").attrs["num-cores"]) == 7
