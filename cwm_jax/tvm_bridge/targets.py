"""Targets: this machine's CPU by the name that TVM's LLVM knows, and what a user asks for."""

import os
import platform
from pathlib import Path
from typing import Any

from cwm_jax.errors import TargetError

# Best first: what LLVM 10 calls a CPU, and the flags that it must have. Newer names are unknown
# to it, and an unknown name silently gives slow generic code.
_LLVM_CPUS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "icelake-server",
        frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_vbmi2", "vaes"}),
    ),
    ("cascadelake", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni"})),
    ("skylake-avx512", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"})),
    ("znver2", frozenset({"avx2", "fma", "sse4a", "clwb", "rdpid"})),
    ("znver1", frozenset({"avx2", "fma", "sse4a"})),
    ("core-avx2", frozenset({"avx2", "fma"})),
    ("corei7-avx", frozenset({"avx"})),
    ("nehalem", frozenset({"sse4_2"})),
)
_EXAMPLES = "for example 'llvm -mcpu=core-avx2 -num-cores=4'"


def llvm_cpu_name(flags: frozenset[str]) -> str | None:
    """Returns the best CPU name for x86 flags (as in /proc/cpuinfo), None for a generic one."""
    return next((name for name, needed in _LLVM_CPUS if needed <= flags), None)


def host_target_text() -> str:
    """Returns the target string for this machine's CPU and the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = llvm_cpu_name(_cpu_flags()) if platform.machine() in ("x86_64", "AMD64") else None
    return f"llvm -keys=cpu{f' -mcpu={cpu}' if cpu else ''} -num-cores={cores or 1}"


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), ":")
    return frozenset(flags.partition(":")[2].split())


def host_target(tvm: Any) -> Any:
    """Returns the `tvm.target.Target` of this machine's CPU."""
    return tvm.target.Target(host_target_text())


def resolve_target(tvm: Any, text: str | None) -> Any:
    """Returns the target that a user asks for, by default this machine's CPU.

    Raises:
        TargetError: TVM does not know it, was built without it, or its device is absent.
    """
    if text is None:
        return host_target(tvm)
    try:
        target = tvm.target.Target(text)
    except Exception as error:  # TVM raises what its parser meets, ValueError to InternalError
        raise TargetError(f"unknown target {text!r}; {_EXAMPLES}") from error
    kind = str(target.kind.name)
    if kind not in ("llvm", "cuda"):
        raise TargetError(f"target {text!r}: only llvm and cuda can be searched; {_EXAMPLES}")
    if not tvm.runtime.enabled(kind):
        raise TargetError(f"target {text!r}: {tvm.__file__} was built without {kind}")
    if kind == "cuda" and not tvm.cuda(0).exist:
        raise TargetError(f"target {text!r}: no CUDA device is present")
    if kind == "llvm":
        _check_cpu(tvm, target, text)
    if kind == "llvm" and "num-cores" not in target.attrs:
        # Ansor must not count cores that this process may not use.
        cores = host_target(tvm).attrs["num-cores"]
        target = tvm.target.Target(f"{target} -num-cores={cores}")
    return target


def _check_cpu(tvm: Any, target: Any, text: str) -> None:
    cpu = target.attrs.get("mcpu")
    known = [str(name) for name in tvm.target.codegen.llvm_get_cpu_archlist(target)]
    if cpu and str(cpu) not in known:
        raise TargetError(
            f"target {text!r}: this TVM's LLVM does not know the CPU {str(cpu)!r} and would "
            f"compile slow generic code; this machine's is {llvm_cpu_name(_cpu_flags())!r}"
        )
