"""The networks of `cwm_jax.workloads.networks` as Relay modules, and their Ansor tasks."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cwm_jax.errors import WorkloadError
from cwm_jax.tvm_bridge.ansor.packed_layouts import packed_dense_layers
from cwm_jax.workloads.networks import Network, build_network
from cwm_jax.workloads.user_code import last_line

_TOPHUB = "TOPHUB_LOCATION"


def network_module(tvm: Any, network: Network) -> Any:
    """Returns the network's `tvm.IRModule` of Relay; its weights are free variables of `main`."""
    out = build_network(tvm.relay, network)
    free = tvm.relay.analysis.free_vars(out.value)
    module = tvm.IRModule.from_expr(tvm.relay.Function(free, out.value))
    return tvm.relay.transform.InferType()(module)


def network_tasks(tvm: Any, network: Network, target: Any) -> list[tuple[Any, int]]:
    """Extracts the Ansor tasks of a network and how often each occurs in it."""
    module = network_module(tvm, network)
    # Relay folds what depends on weights alone only if it knows their values.
    zeros = {
        str(variable.name_hint): tvm.nd.empty(
            [int(extent) for extent in variable.checked_type.shape], "float32"
        )
        for variable in module["main"].params
        if str(variable.name_hint) != "data"
    }
    return extract_tasks(tvm, module, zeros, target)


def extract_tasks(
    tvm: Any, module: Any, params: Mapping[str, Any], target: Any
) -> list[tuple[Any, int]]:
    """Extracts the Ansor tasks of a Relay module and how often each occurs in it.

    Args:
        tvm: A TVM with Ansor.
        module: `tvm.IRModule`.
        params: Weights by name.
        target: `tvm.target.Target`.

    Raises:
        WorkloadError: TVM cannot lower the module.
    """
    try:
        with relay_build_context(tvm):
            tasks, weights = tvm.auto_scheduler.extract_tasks(module, dict(params), target)
    except Exception as error:  # TVM raises whatever it stumbles over
        raise WorkloadError(
            f"TVM cannot extract the network's tasks ({last_line(error)})"
        ) from error
    return list(zip(tasks, (int(weight) for weight in weights), strict=True))


@contextmanager
def relay_build_context(tvm: Any) -> Iterator[None]:
    """Lowers networks as this package needs it: repaired, and without a download."""
    with _nothing_downloaded(), packed_dense_layers(tvm):
        yield


@contextmanager
def _nothing_downloaded() -> Iterator[None]:
    """Keeps TVM from fetching AutoTVM's schedules, which Ansor has no use for."""
    before = os.environ.get(_TOPHUB)
    os.environ[_TOPHUB] = "NONE"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TOPHUB]
        else:
            os.environ[_TOPHUB] = before
