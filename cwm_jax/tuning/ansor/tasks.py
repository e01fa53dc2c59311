"""Workloads -> Ansor search tasks."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from cwm_jax.errors import WorkloadError, described, last_line
from cwm_jax.tuning.ansor.relay import network_tasks
from cwm_jax.tuning.ansor.sketch import Size, sketch_policy
from cwm_jax.tuning.corpus import CorpusTask
from cwm_jax.workloads.networks import Network
from cwm_jax.workloads.operators import OPERATORS
from cwm_jax.workloads.parse import Subgraph, Workload, users_function

_INLINED = 1  # `ComputeAtKind::kInlined`
_SAMPLE = Size(population=16, generations=1, least_sampled=1)
_ADDRESS = re.compile(r", 0x[0-9a-f]+")


def create_task(tvm: Any, workload: Workload | Subgraph, target: Any) -> Any:
    """Registers a workload with Ansor and returns its `auto_scheduler.SearchTask`.

    Raises:
        WorkloadError: A user's function is missing, fails, returns no TE tensors, or is nothing
            that Ansor can tune; or a network has fewer tasks.
    """
    if isinstance(workload, Subgraph):
        tasks = network_tasks(tvm, workload.network, target)
        if workload.position >= len(tasks):
            raise WorkloadError(
                f"{workload.network}#{workload.position}: the network has {len(tasks)} tasks"
            )
        return tasks[workload.position][0]
    if workload.file is None:
        function = functools.partial(OPERATORS[workload.operator].compute, tvm)
        name = workload.operator
    else:
        function = users_function(workload.file, workload.operator)
        name = f"{workload.file.stem}.{workload.operator}"
    _check_tensors(tvm, function, workload)
    tvm.auto_scheduler.register_workload(name, f=function, override=True)
    # Weights keep the layout the user gave them: rewriting it ahead of time needs a network
    # compiler around the operator, and TVM fails to build such a candidate by itself.
    keep = tvm.auto_scheduler.LayoutRewriteOption.NO_REWRITE
    try:
        task = tvm.auto_scheduler.SearchTask(
            func=name, args=workload.arguments, target=target, layout_rewrite_option=keep
        )
    except Exception as error:  # TVM raises what it meets in the graph
        raise WorkloadError(f"{_shown(workload)}: {_cannot(error)}") from error
    reason = why_not_tunable(tvm, task)
    if reason is None and workload.file is not None:
        reason = _why_not_compiled(tvm, task)
    if reason is not None:
        raise WorkloadError(f"{_shown(workload)}: {reason}")
    return task


def why_not_tunable(tvm: Any, task: Any) -> str | None:
    """Returns why Ansor cannot search for schedules of a task, None if it can.

    Of such a task, Ansor's search fails with an internal error, or never ends.
    """
    operations = list(task.compute_dag.ops)
    if not any(isinstance(operation, tvm.te.ComputeOp) for operation in operations):
        return "it computes nothing, so there is nothing to tune"
    for operation in operations:
        for tensor in (operation.output(at) for at in range(operation.num_outputs)):
            if not all(_is_size(tvm, extent) for extent in tensor.shape):
                return (
                    f"Ansor cannot tune it: {str(operation.name)!r} has the shape "
                    f"{list(tensor.shape)}, expected constants of at least 0"
                )
    policy = sketch_policy(tvm, task, 0, size=_SAMPLE)
    try:
        sketches = list(policy.generate_sketches())
        refused = [_why_refused(tvm, task, sketch) for sketch in sketches]
        if all(refused):
            return f"Ansor cannot tune it: {refused[0] if refused else 'it finds no schedule'}"
        policy.sample_initial_population()
    except tvm.TVMError as error:
        said = last_line(error)
        if "ps->extent" in said:
            return "Ansor cannot tune it: it would tile a loop whose extent is not constant"
        # Of a larger sample, some may be valid.
        return None if "All states are invalid" in said else _cannot(error)
    return None


def _is_size(tvm: Any, extent: Any) -> bool:
    return isinstance(extent, tvm.tir.IntImm) and int(extent) >= 0


def _why_refused(tvm: Any, task: Any, sketch: Any) -> str | None:
    """Says why TVM refuses every schedule of a sketch, None if it may accept some.

    Where no sketch has any that it accepts, it goes on drawing for ever.
    """
    for stage in sketch.stages:
        if int(stage.compute_at) == _INLINED and stage.op.num_outputs > 1:
            return f"it would inline {str(stage.op.name)!r}, which computes several tensors"
    if sketch.concrete:
        try:
            task.compute_dag.infer_bound_from_state(sketch)
        except tvm.TVMError as error:
            return last_line(error)
    return None


def _why_not_compiled(tvm: Any, task: Any) -> str | None:
    """Compiles a user's function without a schedule, which takes a moment, for a CPU."""
    if str(task.target.kind.name) != "llvm":
        return None
    listed = {tensor.op for tensor in task.compute_dag.tensors}
    for operation in task.compute_dag.ops:
        if isinstance(operation, tvm.te.PlaceholderOp) and operation not in listed:
            return f"the input {str(operation.name)!r} is not among the tensors that it returns"
    try:
        state = task.compute_dag.get_init_state()
        tvm.build(*task.compute_dag.apply_steps_from_state(state), task.target)
    except Exception as error:  # whatever a pass of TVM stumbles over
        return f"TVM cannot compile it ({last_line(error)})"
    return None


def _cannot(error: Exception) -> str:
    return f"Ansor cannot tune it ({_ADDRESS.sub('', last_line(error))})"


def _shown(workload: Workload) -> str:
    file = [str(workload.file)] if workload.file else []
    arguments = [",".join(map(str, workload.arguments))] if workload.arguments else []
    return ":".join([*file, workload.operator, *arguments])


def _check_tensors(tvm: Any, function: Callable[..., Any], workload: Workload) -> None:
    shown = _shown(workload)
    try:
        tensors = function(*workload.arguments)
    except (Exception, SystemExit) as error:  # a user's code, or TVM's checks of the shapes
        raise WorkloadError(f"{shown}: cannot be built ({described(error)})") from error
    is_sequence = isinstance(tensors, Sequence) and len(tensors) > 0
    if not is_sequence or not all(isinstance(t, tvm.te.Tensor) for t in tensors):
        raise WorkloadError(
            f"{shown}: expected it to return the TE tensors of inputs and outputs as a list, got "
            f"{_kind_of(tensors)}"
        )


def _kind_of(value: Any) -> str:
    if value is None or isinstance(value, str) or not isinstance(value, Sequence):
        return "None" if value is None else f"a {type(value).__name__}"
    kinds = sorted({type(entry).__name__ for entry in value})
    return f"a {type(value).__name__} of {', '.join(kinds) or 'nothing'}"


class AnsorTasks:
    """Ansor's tasks.

    Args:
        tvm: A TVM with Ansor.
        target: `tvm.target.Target`.
    """

    def __init__(self, tvm: Any, target: Any) -> None:
        self._tvm, self._target = tvm, target

    def network_tasks(self, network: Network) -> list[tuple[CorpusTask, int]]:
        """Returns the tasks of a network, and how often each occurs in it."""
        found = network_tasks(self._tvm, network, self._target)
        return [(self._corpus_task(task), weight) for task, weight in found]

    def workload_task(self, workload: Workload | Subgraph) -> CorpusTask:
        """Returns the task of a workload."""
        return self._corpus_task(create_task(self._tvm, workload, self._target))

    def _corpus_task(self, task: Any) -> CorpusTask:
        return CorpusTask(
            workload_key=str(task.workload_key),
            target=str(self._target),
            layout_rewrite=int(task.layout_rewrite_option),
            flop=float(task.compute_dag.flop_ct),
            tensors=str(self._tvm.ir.save_json(task.compute_dag.tensors)),
            occurrences={},
        )


def search_task(tvm: Any, task: CorpusTask) -> Any:
    """Returns the `auto_scheduler.SearchTask`, its compute graph registered under its key."""
    ansor = tvm.auto_scheduler
    tensors = list(tvm.ir.load_json(task.tensors))
    ansor.workload_registry.register_workload_tensors(task.workload_key, tensors, override=True)
    known = task.hardware_parameters
    # Without them TVM asks the device, which may be another machine's.
    parameters = {"hardware_params": ansor.HardwareParams(*known)} if known else {}
    return ansor.SearchTask(
        workload_key=task.workload_key,
        target=tvm.target.Target(task.target),
        layout_rewrite_option=task.layout_rewrite,
        **parameters,
    )
