"""Targets of today's TVM, which are JSON, and modules to tune for them."""

import platform
from typing import Any

import orjson

from cwm_jax.errors import TargetError, WorkloadError, described, last_line
from cwm_jax.tuning.machine import check_cores, check_triple, shown, stated_target
from cwm_jax.tuning.metaschedule.relax import extract_modules, relax_module
from cwm_jax.tvm_bridge.runtime import check_builder_tools, usable_cores
from cwm_jax.workloads.operators import OPERATORS
from cwm_jax.workloads.parse import Subgraph, Workload, users_function

_EXAMPLE = 'for example \'{"kind": "llvm", "mcpu": "skylake-avx512", "num-cores": 4}\''

# LLVM names a CPU whose features a hypervisor hides in part after an older one; what it has
# beyond that decides which of MetaSchedule's tensor intrinsics are tried.
_EXTRA_FEATURES = ("avx512vnni", "avx512bf16", "avx512fp16", "avxvnni", "amx-tile", "amx-int8")
_VECTOR_FEATURES = ("sse", "avx", "fma", "f16c", "amx", "neon", "sve", "dotprod", "i8mm", "bf16")


def host_target(tvm: Any) -> Any:
    """Returns the `tvm.target.Target` of this machine's CPU, with all features it has."""
    cpu = str(tvm.get_global_func("tvm.codegen.llvm.GetHostCPUName")())
    found = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    features = {str(name) for name, present in found.items() if bool(present)}
    attributes: dict[str, Any] = {"kind": "llvm", "mcpu": cpu, "num-cores": usable_cores()}
    extra = [f"+{name}" for name in _EXTRA_FEATURES if name in features]
    if extra and platform.machine().lower() in ("x86_64", "amd64"):
        attributes["mattr"] = extra
    return tvm.target.Target(attributes)


def resolve_target(tvm: Any, text: str | None, *, remote: bool = False) -> Any:
    """Returns the target that a user asks for, by default this machine's CPU.

    Args:
        tvm: A TVM with MetaSchedule.
        text: Target as JSON or the name of a kind, None for this machine's CPU.
        remote: Programs will run elsewhere, so this machine's cores do not count.

    Raises:
        TargetError: TVM does not know it, or was built without it; or it does not say the cores
            of a remote CPU.
        TvmError: Programs cannot be built here.
    """
    if not remote:
        check_builder_tools()
    if text is None:
        return host_target(tvm)
    stated = stated_target(text, _EXAMPLE)
    try:
        target = tvm.target.Target(stated)
        kind = str(target.kind.name)
        if "num-cores" not in target.attrs and kind == "llvm" and not remote:
            attributes = orjson.loads(str(target)) | {"num-cores": usable_cores()}
            target = tvm.target.Target(attributes)
    except Exception as error:  # TVM raises what its parser meets
        why = last_line(error)
        raise TargetError(f"unknown target {shown(text)} ({why}); {_EXAMPLE}") from error
    if not _is_enabled(tvm, kind):
        raise TargetError(f"target {shown(text)}: {tvm.__file__} was built without {kind}")
    if kind == "llvm":
        _check_cpu(tvm, target, text, remote=remote)
    check_cores(target.attrs, text, remote=remote, example=_EXAMPLE)
    return target


def _is_enabled(tvm: Any, kind: str) -> bool:
    try:
        return bool(tvm.runtime.enabled(kind))
    except tvm.error.InternalError:  # a kind that no runtime is of
        return False


def _check_cpu(tvm: Any, target: Any, text: str, *, remote: bool) -> None:
    if "num-cores" not in target.attrs:
        raise TargetError(f"target {shown(text)}: say the num-cores of the device; {_EXAMPLE}")
    stated = str(target.attrs.get("mtriple", ""))
    if not remote:
        check_triple(stated, text, _EXAMPLE)
    cpu, triple = str(target.attrs.get("mcpu", "")), stated or _triple(tvm)
    if cpu and not tvm.target.codegen.llvm_is_valid_cpu(cpu, triple):
        raise TargetError(
            f"target {shown(text)}: this TVM's LLVM does not know {cpu!r}; {_EXAMPLE}"
        )
    if remote:
        return
    found = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    here = {str(name): bool(present) for name, present in found.items()}
    # Hypervisors hide parts of a CPU, but not what its vectors can do.
    implied = [
        name
        for name in map(str, tvm.target.codegen.llvm_get_cpu_features(target) if cpu else ())
        if name.startswith(_VECTOR_FEATURES)
    ]
    asked = [str(name)[1:] for name in target.attrs.get("mattr", ()) if str(name)[:1] == "+"]
    lacking = sorted(name for name in {*implied, *asked} if here.get(name) is False)
    if lacking:
        raise TargetError(
            f"target {shown(text)}: this CPU lacks {', '.join(lacking)}, so its programs would "
            f"crash; for this machine use {str(host_target(tvm))!r}"
        )


def _triple(tvm: Any) -> str:
    return str(tvm.target.codegen.llvm_get_system_triple())


def create_module(tvm: Any, workload: Workload | Subgraph, target: Any) -> Any:
    """Returns a workload as a `tvm.IRModule` of one function, `main`.

    Args:
        tvm: A TVM with MetaSchedule.
        workload: An operator, a user's function, or a task of a built-in network.
        target: Target that a network's tasks are extracted for.

    Raises:
        WorkloadError: A network has no such task, or a user's function is missing or fails.
    """
    if isinstance(workload, Subgraph):
        tasks = extract_modules(tvm, relax_module(tvm, workload.network, target), target)
        if workload.position >= len(tasks):
            raise WorkloadError(
                f"{workload.network}#{workload.position}: the network has {len(tasks)} tasks, "
                "counted from 0"
            )
        return tasks[workload.position][0]
    try:
        if workload.file is None:
            tensors = OPERATORS[workload.operator].compute(tvm, *workload.arguments)
        else:
            tensors = users_function(workload.file, workload.operator)(*workload.arguments)
        return tvm.IRModule({"main": tvm.te.create_prim_func(list(tensors))})
    except WorkloadError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise WorkloadError(f"{workload.operator}: cannot be built ({described(error)})") from error
