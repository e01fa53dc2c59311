"""Tasks of a corpus as Ansor's, and back."""

from typing import Any

from cwm_jax.tuning.ansor.relay import network_tasks
from cwm_jax.tuning.ansor.tasks import create_task
from cwm_jax.tvm_bridge.corpus_tasks import CorpusTask
from cwm_jax.workloads.networks import Network
from cwm_jax.workloads.parse import Subgraph, Workload


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
