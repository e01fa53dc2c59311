"""The networks of `cwm_jax.workloads.networks` as Relay modules, and their Ansor tasks."""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.errors import WorkloadError, described, last_line
from cwm_jax.records.ansor_log import append_records
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.search.confirmation import best_records
from cwm_jax.tuning.ansor.measure import connect
from cwm_jax.tuning.machine import Tracker, sent_library
from cwm_jax.workloads.networks import (
    Network,
    build_network,
    parse_network,
)
from cwm_jax.workloads.parse import users_model, users_onnx

_BATCH_NAMES = ("b", "c", "d", "e")


class _NamedAxes:
    """`tvm.te`, but a computation over anonymous indices names them `..., b, i, j`."""

    def __init__(self, te: Any) -> None:
        self._te = te

    def __getattr__(self, name: str) -> Any:
        return getattr(self._te, name)

    def compute(self, shape: Any, function: Any, *args: Any, **options: Any) -> Any:
        anonymous = function.__code__.co_argcount == 0
        if anonymous and 2 <= len(shape) <= 2 + len(_BATCH_NAMES):
            options.setdefault("varargs_names", [*_BATCH_NAMES[: len(shape) - 2], "i", "j"])
        return self._te.compute(shape, function, *args, **options)


@contextmanager
def packed_dense_layers(tvm: Any) -> Iterator[None]:
    """Lets Relay's dense layers be tuned and built with packed weights."""
    module: Any = sys.modules[f"{tvm.__name__}.topi.nn.dense"]
    te, matmul = module.te, module.matmul

    def repaired(
        tensor_a: Any,
        tensor_b: Any,
        bias: Any = None,
        out_dtype: str | None = None,
        transpose_a: bool = False,
        transpose_b: bool = False,
        auto_scheduler_rewritten_layout: str = "",
        meta_schedule_original_shape: Any = None,
    ) -> Any:
        if auto_scheduler_rewritten_layout and not transpose_a and transpose_b and bias is None:
            layout = auto_scheduler_rewritten_layout
            return _packed_dense(tvm, tensor_a, tensor_b, out_dtype, layout)
        arguments = tensor_a, tensor_b, bias, out_dtype, transpose_a, transpose_b
        return matmul(*arguments, auto_scheduler_rewritten_layout, meta_schedule_original_shape)

    module.te, module.matmul = _NamedAxes(te), repaired
    try:
        yield
    finally:
        module.te, module.matmul = te, matmul


def _packed_dense(tvm: Any, data: Any, weight: Any, out_dtype: str | None, layout: str) -> Any:
    """The computation of `topi.nn.dense`, reading a weight that is packed as `layout` says."""
    ansor, te = tvm.auto_scheduler, tvm.te
    outputs, inputs = ansor.get_shape_from_rewritten_layout(layout, ["j", "k"])
    ansor.remove_index_check(weight)
    dtype = out_dtype or data.dtype
    k = te.reduce_axis((0, inputs), name="k")
    product = te.compute(
        (data.shape[0], outputs),
        lambda i, j: te.sum(data[i, k].astype(dtype) * weight[j, k].astype(dtype), axis=k),
        name="T_matmul_NT",
        tag="dense",
        attrs={"layout_free_placeholders": [weight]},
    )
    return ansor.rewrite_compute_body(product, layout)


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


_INPUT = "data"
_SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class NetworkSource:
    """A network as Relay.

    Attributes:
        name: For people and file names.
        module: `tvm.IRModule`.
        params: Weights, `tvm.nd.NDArray` by name.
        inputs: Shape and dtype of each input by name.
    """

    name: str
    module: Any
    params: Mapping[str, Any]
    inputs: Mapping[str, tuple[tuple[int, ...], str]]


def load_network(tvm: Any, text: str, seed: int = 0) -> NetworkSource:
    """Loads a network.

    Args:
        tvm: A TVM with Relay.
        text: A built-in network's name, `FILE.py:FUNCTION`, or `FILE.onnx`.
        seed: Seed of a built-in network's weights.

    Raises:
        WorkloadError: There is no such network, or it cannot be imported.
    """
    head, _, rest = text.partition(":")
    if head.endswith(".py"):
        return _from_pytorch(tvm, Path(head), rest)
    if text.endswith(".onnx"):
        return _from_onnx(tvm, Path(text))
    return _built_in(tvm, text, seed)


def _built_in(tvm: Any, text: str, seed: int) -> NetworkSource:
    network = parse_network(text)
    module = network_module(tvm, network)
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    inputs: dict[str, tuple[tuple[int, ...], str]] = {}
    for variable in module["main"].params:
        name = str(variable.name_hint)
        shape = tuple(int(extent) for extent in variable.checked_type.shape)
        if name == _INPUT:
            inputs[name] = (shape, str(variable.checked_type.dtype))
        else:
            weights = rng.uniform(-_SCALE, _SCALE, shape).astype(np.float32)
            params[name] = tvm.nd.array(weights)
    return NetworkSource(str(network), module, params, inputs)


def _from_pytorch(tvm: Any, file: Path, function: str) -> NetworkSource:
    text = f"{file}:{function}"
    torch, model, examples = users_model(file, function)
    try:
        with torch.no_grad():
            traced = torch.jit.trace(model, examples)
    except Exception as error:  # the model's own code
        raise WorkloadError(f"{text}: PyTorch cannot trace it ({described(error)})") from error
    inputs = {
        f"input{at}": (tuple(example.shape), str(example.dtype).removeprefix("torch."))
        for at, example in enumerate(examples)
    }
    try:
        module, params = tvm.relay.frontend.from_pytorch(traced, list(inputs.items()))
    except Exception as error:  # TVM raises whatever its converter stumbles over
        raise WorkloadError(f"{text}: TVM cannot import it ({last_line(error)})") from error
    return NetworkSource(f"{file.stem}-{function}", module, params, inputs)


def _from_onnx(tvm: Any, file: Path) -> NetworkSource:
    model = users_onnx(file)
    try:
        module, params = tvm.relay.frontend.from_onnx(model)
        passes = (tvm.relay.transform.DynamicToStatic(), tvm.relay.transform.InferType())
        module = tvm.transform.Sequential(passes)(module)
    except Exception as error:  # TVM raises whatever it stumbles over
        raise WorkloadError(f"{file}: cannot be imported ({last_line(error)})") from error
    inputs: dict[str, tuple[tuple[int, ...], str]] = {}
    for variable in module["main"].params:
        name, kind = str(variable.name_hint), variable.checked_type
        if name in params:
            continue
        if not all(isinstance(extent, tvm.tir.IntImm) for extent in kind.shape):
            raise WorkloadError(f"{file}: input {name!r} has no fixed shape, {list(kind.shape)}")
        inputs[name] = (tuple(int(extent) for extent in kind.shape), str(kind.dtype))
    return NetworkSource(file.stem, module, params, inputs)


_BUILD = {"relay.backend.use_auto_scheduler": True}


def compile_network(tvm: Any, source: NetworkSource, target: Any, log: Path) -> Any:
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
        library: The compiled network (`compile_network`).
        target: `tvm.target.Target`.
        inputs: Inputs by name.
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
