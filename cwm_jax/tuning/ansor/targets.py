"""Targets: this machine's CPU by the name that TVM's LLVM knows, and what a user asks for."""

import platform
from pathlib import Path
from typing import Any

from cwm_jax.errors import TargetError, last_line
from cwm_jax.tuning.machine import ARM, X86, check_cores, check_triple, shown, stated_target
from cwm_jax.tvm_bridge.runtime import check_builder_tools, usable_cores

# Best first: what LLVM 10 calls a CPU, and the flags that it must have. Newer names are unknown
# to it, and an unknown name silently gives slow generic code.
_LLVM_CPUS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "icelake-server",
        frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_vbmi2", "vaes"}),
    ),
    ("cooperlake", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"})),
    ("cascadelake", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni"})),
    ("skylake-avx512", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"})),
    ("znver2", frozenset({"avx2", "fma", "sse4a", "clwb", "rdpid"})),
    ("znver1", frozenset({"avx2", "fma", "sse4a"})),
    ("core-avx2", frozenset({"avx2", "fma"})),
    ("corei7-avx", frozenset({"avx"})),
    ("nehalem", frozenset({"sse4_2"})),
)
_ARM_CPUS: tuple[tuple[str, frozenset[str]], ...] = (
    ("neoverse-n1", frozenset({"asimd", "atomics", "asimddp", "asimdhp", "lrcpc"})),
    ("cortex-a72", frozenset({"asimd", "crc32"})),
)
_EXAMPLES = "for example 'llvm -mcpu=core-avx2 -num-cores=4'"


def llvm_cpu_name(flags: frozenset[str], machine: str = "x86_64") -> str | None:
    """Returns the best CPU name that LLVM 10 knows, None for a generic CPU.

    Args:
        flags: As in /proc/cpuinfo.
        machine: Architecture, as `platform.machine()` gives it.
    """
    known = {**dict.fromkeys(X86, _LLVM_CPUS), **dict.fromkeys(ARM, _ARM_CPUS)}
    cpus = known.get(machine.lower(), ())
    return next((name for name, needed in cpus if needed <= flags), None)


def host_target_text() -> str:
    """Returns the target string for this machine's CPU and the cores this process may use."""
    cpu = llvm_cpu_name(_cpu_flags(), platform.machine())
    keys = "arm_cpu,cpu" if platform.machine().lower() in ARM else "cpu"
    return f"llvm -keys={keys}{f' -mcpu={cpu}' if cpu else ''} -num-cores={usable_cores()}"


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(flags.partition(":")[2].split())


def host_target(tvm: Any) -> Any:
    """Returns the `tvm.target.Target` of this machine's CPU."""
    return tvm.target.Target(host_target_text())


def resolve_target(tvm: Any, text: str | None, *, remote: bool = False) -> Any:
    """Returns the target that a user asks for, by default this machine's CPU.

    Args:
        tvm: A TVM.
        text: TVM target string, None for this machine's CPU.
        remote: Programs will run elsewhere, so this machine's devices do not matter.

    Raises:
        TargetError: TVM does not know it, was built without it, or its device is absent.
        TvmError: Programs cannot be built here.
    """
    if not remote:
        check_builder_tools()
    if text is None:
        return host_target(tvm)
    stated = stated_target(text, _EXAMPLES)
    if not remote and isinstance(stated, str) and stated.split()[0] == "cuda":
        _check_cuda(tvm, text)  # first: without a device TVM's parser warns on stderr
    try:
        target = tvm.target.Target(stated)
        kind = str(target.kind.name)
        if kind == "llvm" and "num-cores" not in target.attrs and not remote:
            # Ansor must not count cores that this process may not use.
            cores = int(host_target(tvm).attrs["num-cores"])
            target = tvm.target.Target({**target.export(), "num-cores": cores})
        tvm.target.Target(str(target))  # as logs keep it
    except Exception as error:  # TVM raises what its parser meets, ValueError to InternalError
        why = last_line(error)
        raise TargetError(f"unknown target {shown(text)} ({why}); {_EXAMPLES}") from error
    if kind not in ("llvm", "cuda"):
        raise TargetError(f"target {shown(text)}: only llvm and cuda can be searched; {_EXAMPLES}")
    if not tvm.runtime.enabled(kind):
        raise TargetError(f"target {shown(text)}: {tvm.__file__} was built without {kind}")
    if kind == "cuda" and not remote:
        _check_cuda(tvm, text)
    elif not remote:
        _check_cpu(tvm, target, text)
    check_cores(target.attrs, text, remote=remote, example=_EXAMPLES)
    return target


def _check_cuda(tvm: Any, text: str) -> None:
    if not tvm.cuda(0).exist:
        raise TargetError(f"target {shown(text)}: no CUDA device is present; {_EXAMPLES}")


def _check_cpu(tvm: Any, target: Any, text: str) -> None:
    """Candidates are built and run here, so this LLVM and this CPU must both know the target."""
    check_triple(str(target.attrs.get("mtriple", "")), text, _EXAMPLES)
    cpu = str(target.attrs.get("mcpu", ""))
    list_cpus = getattr(tvm.target.codegen, "llvm_get_cpu_archlist", None)  # newer than Ansor
    if cpu and list_cpus and cpu not in [str(name) for name in list_cpus(target)]:
        raise TargetError(
            f"target {shown(text)}: this TVM's LLVM does not know the CPU {cpu!r} and "
            f"would compile slow generic code; for this machine use {host_target_text()!r}"
        )
    needed = dict((*_LLVM_CPUS, *_ARM_CPUS)).get(cpu, frozenset()) | _named_flags(target)
    missing = needed - _cpu_flags()
    if missing:
        raise TargetError(
            f"target {shown(text)}: this CPU lacks {', '.join(sorted(missing))}, so its programs "
            f"would crash; for this machine use {host_target_text()!r}"
        )


def _named_flags(target: Any) -> frozenset[str]:
    """The CPU flags that `-mattr` asks for, of those that are known here."""
    known = {
        flag.replace("_", "").replace(".", ""): flag
        for _, flags in (*_LLVM_CPUS, *_ARM_CPUS)
        for flag in flags
    }
    asked = (str(name) for name in target.attrs.get("mattr", ()))
    plain = (name[1:].replace("-", "").replace(".", "") for name in asked if name[:1] == "+")
    return frozenset(known[name] for name in plain if name in known)
