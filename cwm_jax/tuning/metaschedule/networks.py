"""Networks in Relax: compiled with the best of a search, and timed."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.errors import WorkloadError, last_line
from cwm_jax.search.confirmation import best_records
from cwm_jax.tuning.machine import Tracker, sent_library
from cwm_jax.tuning.metaschedule.measure import connect
from cwm_jax.tuning.metaschedule.work_dir import line_of, search_records, tuning_record_of
from cwm_jax.tvm_bridge.metaschedule.builder import load_intrinsics

_TIMED_MS = 500


def check_network(tvm: Any, name: str, module: Any, target: Any) -> None:
    """Compiles a network untuned: what TVM cannot compile is not worth a trial.

    Args:
        tvm: A TVM with MetaSchedule.
        name: Name of the network.
        module: `tvm.IRModule` (`relax_networks.relax_module`).
        target: TVM target.

    Raises:
        WorkloadError: It cannot be compiled.
    """
    untuned = tvm.s_tir.meta_schedule.database.MemoryDatabase()
    try:
        _compiled(tvm, module, target, untuned, enable_warning=False)
    except Exception as error:  # TVM raises what its passes meet
        raise WorkloadError(
            f"{name}: TVM cannot compile it for {target}, tuned or not ({last_line(error)})"
        ) from error


def compile_network(tvm: Any, module: Any, target: Any, folder: Path) -> Any:
    """Compiles a Relax module with the fastest recorded program of each of its functions.

    TVM's own `compile_relax` would fuse the module once more, into functions that no record is of.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` (`relax_networks.relax_module`).
        target: TVM target.
        folder: Folder of the search.

    Returns:
        `relax.VMExecutable`.
    """
    load_intrinsics()  # a trace may name some
    return _compiled(tvm, module, target, _best_programs(tvm, folder, target), enable_warning=True)


def _compiled(tvm: Any, module: Any, target: Any, database: Any, *, enable_warning: bool) -> Any:
    relax = tvm.relax
    with target, database, tvm.transform.PassContext(opt_level=3):
        best = relax.transform.MetaScheduleApplyDatabase(enable_warning=enable_warning)
        pipeline = tvm.transform.Sequential([best, *_lowering(tvm, target)])
        return relax.build(module, target=target, relax_pipeline=pipeline)


def _lowering(tvm: Any, target: Any) -> list[Any]:
    """What comes behind scheduling, as in TVM's `compile_relax`."""
    pipeline, passes = tvm.relax.pipeline, tvm.relax.transform
    lowered = [
        passes.RewriteDataflowReshape(),
        passes.ToNonDataflow(),
        passes.RemovePurityChecking(),
        passes.CallTIRRewrite(),
    ]
    if pipeline.BackendDispatcher.is_gpu_target(target):
        # What no record is of needs threads all the same.
        dlight = importlib.import_module("tvm.s_tir.dlight")
        rules = ("Matmul", "GEMV", "Reduction", "GeneralReduction", "Fallback")
        untuned = dlight.ApplyDefaultSchedule(*(getattr(dlight.gpu, rule)() for rule in rules))
        return [untuned, *lowered, *pipeline.finalize_passes(target)]
    return [
        *lowered,
        passes.StaticPlanBlockMemory(),
        passes.LowerAllocTensor(),
        passes.KillAfterLastUse(),
        passes.LowerRuntimeBuiltin(),
        passes.ComputePrimValue(),
        passes.VMShapeLower(),
        passes.AttachGlobalSymbol(),
    ]


def _best_programs(tvm: Any, folder: Path, target: Any) -> Any:
    """Returns a database of the fastest program of each module of a search on a target."""
    databases = tvm.s_tir.meta_schedule.database
    found = databases.MemoryDatabase()
    measured = [record for record in search_records(folder) if record.target == str(target)]
    for best in best_records(measured):
        record = tuning_record_of(tvm, folder, line_of(folder, best))
        workload = found.commit_workload(record.workload.mod)
        found.commit_tuning_record(
            databases.TuningRecord(
                record.trace, workload, record.run_secs, record.target, record.args_info
            )
        )
    return found


def random_arguments(module: Any, seed: int) -> dict[str, np.ndarray]:
    """Draws the arguments of `main` by name: uniform in [-0.1, 0.1), integers all 1."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for variable in module["main"].params:
        shape = [int(extent) for extent in variable.ty.shape]
        dtype = str(variable.ty.dtype)
        drawn = rng.uniform(-0.1, 0.1, shape) if "float" in dtype else np.ones(shape)
        found[str(variable.name)] = drawn.astype(dtype)
    return found


def time_executable(
    tvm: Any,
    executable: Any,
    target: Any,
    arguments: Mapping[str, np.ndarray],
    repeats: int,
    tracker: Tracker | None = None,
) -> list[float]:
    """Runs a compiled network.

    Args:
        tvm: A TVM with MetaSchedule.
        executable: The compiled network (`compile_network`).
        target: TVM target.
        arguments: Arguments of `main`, in order.
        repeats: How often to measure; each measurement runs for at least 0.5 s.
        tracker: Where to ask for a device; None for this machine.

    Returns:
        Seconds of one inference, one entry a measurement.

    Raises:
        TargetError: No remote device answers.
    """
    kind = str(target.kind.name)
    kind = "cpu" if kind == "llvm" else kind
    if tracker is None:
        device = tvm.device(kind, 0)
    else:
        session = connect(tvm, tracker)
        device = session.device(kind, 0)
        executable = sent_library(session, executable)
    machine = tvm.relax.VirtualMachine(executable, device)
    tensors = [tvm.runtime.tensor(value, device) for value in arguments.values()]
    machine.set_input("main", *tensors)
    timer = machine.time_evaluator(
        "invoke_stateful", device, number=1, repeat=repeats, min_repeat_ms=_TIMED_MS
    )
    return [float(seconds) for seconds in timer("main").results]
