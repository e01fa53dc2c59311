"""A tuned network as a library: built with the best schedules of a log, timed, exported."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.records.ansor_log import LogSummary, append_records, load_records
from cwm_jax.search.confirmation import best_records
from cwm_jax.tuning.ansor.relay import relay_build_context
from cwm_jax.tuning.tracker import Tracker, sent_library
from cwm_jax.tvm_bridge.ansor.network_sources import NetworkSource
from cwm_jax.tvm_bridge.ansor.remote import connect

_BUILD = {"relay.backend.use_auto_scheduler": True}


def build_network(tvm: Any, source: NetworkSource, target: Any, log: Path) -> Any:
    """Compiles a network with the fastest recorded program of each task.

    Args:
        tvm: A TVM with Ansor.
        source: The network.
        target: `tvm.target.Target`.
        log: Ansor log.

    Returns:
        TVM's factory of the graph executor (`lib["default"](device)`).
    """
    with tempfile.TemporaryDirectory(prefix="cwm-") as work:
        path = Path(work) / "best.json"
        append_records(path, best_records(load_records(log, summary=LogSummary())))
        best = tvm.auto_scheduler.ApplyHistoryBest(str(path))
    with (
        relay_build_context(tvm),
        best,
        tvm.transform.PassContext(opt_level=3, config=_BUILD),
    ):
        return tvm.relay.build(source.module, target=target, params=dict(source.params))


def random_inputs(source: NetworkSource, seed: int) -> dict[str, np.ndarray]:
    """Draws inputs of a network: uniform in [0, 1), integers all 1."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.random(shape).astype(dtype) if "float" in dtype else np.ones(shape, dtype)
        for name, (shape, dtype) in source.inputs.items()
    }


def time_network(
    tvm: Any,
    library: Any,
    target: Any,
    inputs: Mapping[str, np.ndarray],
    repeats: int,
    tracker: Tracker | None = None,
) -> list[float]:
    """Runs a compiled network.

    Args:
        tvm: A TVM with Ansor.
        library: As `build_network` returns it.
        target: `tvm.target.Target`.
        inputs: By name.
        repeats: How often to measure; each measurement runs for at least 0.5 s.
        tracker: Where to ask for a device; None for this machine.

    Returns:
        Seconds of one inference, one entry a measurement.
    """
    kind = str(target.kind)
    if tracker is None:
        device = tvm.device(kind, 0)
    else:
        session = connect(tvm, tracker)
        device = session.device(kind, 0)
        library = sent_library(session, library)
    executor = tvm.contrib.graph_executor.GraphModule(library["default"](device))
    for name, value in inputs.items():
        executor.set_input(name, value)
    timer = executor.module.time_evaluator("run", device, repeat=repeats, min_repeat_ms=500)
    return [float(seconds) for seconds in timer().results]
