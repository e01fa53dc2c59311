"""A network to tune with MetaSchedule, from where users have it: built in, PyTorch, or ONNX."""

from pathlib import Path
from typing import Any, NamedTuple

from cwm_jax.errors import WorkloadError
from cwm_jax.tuning.metaschedule.relax import prepare_module, relax_module
from cwm_jax.workloads.networks import parse_network
from cwm_jax.workloads.user_code import last_line, users_model, users_onnx


class RelaxSource(NamedTuple):
    """A network as Relax.

    Attributes:
        name: For people and file names.
        module: `tvm.IRModule`, prepared for MetaSchedule. A user's own weights are constants in
            it; `main` of a built-in network takes random ones.
    """

    name: str
    module: Any


def load_relax_network(tvm: Any, text: str, target: Any | None = None) -> RelaxSource:
    """Loads a network.

    Args:
        tvm: A TVM with Relax.
        text: As `network_sources.networks_help` lists.
        target: As for `relax_networks.prepare_module`.

    Raises:
        WorkloadError: There is no such network, it cannot be imported, or a shape is not fixed.
    """
    head, _, rest = text.partition(":")
    if head.endswith(".py"):
        name, module = f"{Path(head).stem}-{rest}", _from_pytorch(tvm, head, rest)
        return _checked(tvm, name, text, module, target)
    if text.endswith(".onnx"):
        return _checked(tvm, Path(text).stem, text, _from_onnx(tvm, Path(text)), target)
    network = parse_network(text)
    return RelaxSource(str(network), relax_module(tvm, network, target))


def _from_pytorch(tvm: Any, file: str, function: str) -> Any:
    torch, model, examples = users_model(Path(file), function)
    try:
        from tvm.relax.frontend.torch import from_exported_program

        with torch.no_grad():
            exported = torch.export.export(model, examples)
        return from_exported_program(exported, unwrap_unit_return_tuple=True)
    except Exception as error:  # PyTorch and TVM raise whatever they stumble over
        text = f"{file}:{function}"
        raise WorkloadError(f"{text}: TVM cannot import it ({last_line(error)})") from error


def _from_onnx(tvm: Any, file: Path) -> Any:
    model = users_onnx(file)
    try:
        from tvm.relax.frontend.onnx import from_onnx

        return from_onnx(model)
    except Exception as error:  # TVM raises whatever it stumbles over
        raise WorkloadError(f"{file}: TVM cannot import it ({last_line(error)})") from error


def _checked(tvm: Any, name: str, text: str, module: Any, target: Any | None) -> RelaxSource:
    """Prepares a user's module whose inputs have fixed shapes."""
    for variable in module["main"].params:
        shape = getattr(variable.ty, "shape", None)
        if shape is None or not all(type(extent).__name__ == "IntImm" for extent in shape):
            raise WorkloadError(f"{text}: input {variable.name!s} has no fixed shape, {shape}")
    try:
        return RelaxSource(name, prepare_module(tvm, module, target))
    except Exception as error:  # an operator that TVM cannot lower
        raise WorkloadError(f"{text}: TVM cannot lower it ({last_line(error)})") from error
