"""A network to tune, from where users have it: built in, PyTorch, or ONNX."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.errors import WorkloadError
from cwm_jax.tuning.ansor.relay import network_module
from cwm_jax.workloads.networks import NETWORKS, parse_network
from cwm_jax.workloads.user_code import described, last_line, users_model, users_onnx

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


def networks_help() -> str:
    """Returns the help text that lists what `--network` takes."""
    return "\n".join(
        [
            "networks:",
            "  NAME[:BATCH[,LAYOUT]]  a built-in one with random weights, NHWC or NCHW:",
            *(f"      {name}" for name in NETWORKS),
            "  FILE.py:FUNCTION  a function of yours that returns a torch.nn.Module and a tuple",
            "      of example inputs; needs PyTorch in this environment",
            "  FILE.onnx  an ONNX model with fixed shapes; pip install 'cwm-jax[onnx]' first",
        ]
    )


def is_users_own(text: str) -> bool:
    """Whether a network is a user's, and not built in."""
    return text.partition(":")[0].endswith(".py") or text.endswith(".onnx")


def load_network(tvm: Any, text: str, seed: int = 0) -> NetworkSource:
    """Loads a network.

    Args:
        tvm: A TVM with Relay.
        text: As `networks_help` lists.
        seed: Of a built-in network's weights.

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
