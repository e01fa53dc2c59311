"""Workloads -> Ansor search tasks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from cwm_jax.errors import WorkloadError
from cwm_jax.tvm_bridge.ansor.relay_networks import network_tasks
from cwm_jax.tvm_bridge.operators import OPERATORS
from cwm_jax.tvm_bridge.user_code import users_function
from cwm_jax.tvm_bridge.workloads import Subgraph, Workload


def create_task(tvm: Any, workload: Workload | Subgraph, target: Any) -> Any:
    """Registers a workload with Ansor and returns its `auto_scheduler.SearchTask`.

    Raises:
        WorkloadError: A user's function is missing, fails, or returns no TE tensors; or a
            network has fewer tasks.
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
    return tvm.auto_scheduler.SearchTask(
        func=name, args=workload.arguments, target=target, layout_rewrite_option=keep
    )


def _check_tensors(tvm: Any, function: Callable[..., Any], workload: Workload) -> None:
    shown = f"{workload.operator}{workload.arguments}"
    try:
        tensors = function(*workload.arguments)
    except Exception as error:  # a user's code, or TVM's checks of the shapes
        raise WorkloadError(f"{shown}: cannot be built ({error})") from error
    is_sequence = isinstance(tensors, Sequence) and len(tensors) > 0
    if not is_sequence or not all(isinstance(t, tvm.te.Tensor) for t in tensors):
        raise WorkloadError(f"{shown}: expected it to return the TE tensors of inputs and outputs")
