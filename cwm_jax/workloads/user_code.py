"""What users bring along: functions in Python files, PyTorch and ONNX models."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cwm_jax.errors import WorkloadError, described, last_line


def users_function(file: Path, name: str) -> Callable[..., Any]:
    """Loads a function; the file runs as a module.

    Raises:
        WorkloadError: The file is missing or fails, or has no such function.
    """
    if not file.is_file():
        raise WorkloadError(f"{file}: no such Python file")
    spec = importlib.util.spec_from_file_location(f"cwm_workload_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise WorkloadError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise WorkloadError(f"{file}: does not load ({described(error)})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise WorkloadError(f"{file}: has no function {name!r}")
    return function


class UsersModel(NamedTuple):
    """A PyTorch model.

    Attributes:
        torch: The package, which is imported only where a user brings a model.
        model: `torch.nn.Module` in evaluation mode.
        examples: Its inputs.
    """

    torch: Any
    model: Any
    examples: tuple[Any, ...]


def users_model(file: Path, function: str) -> UsersModel:
    """Makes the PyTorch model of a user's function.

    Raises:
        WorkloadError: PyTorch is missing, or the function is, or it returns something else.
    """
    text = f"{file}:{function}"
    if not function.isidentifier():
        raise WorkloadError(f"{text!r}: expected FILE.py:FUNCTION")
    make = users_function(file, function)
    torch = _imported("torch", text)
    try:
        made = make()
    except (Exception, SystemExit) as error:  # the user's own code
        raise WorkloadError(f"{text} failed ({described(error)})") from error
    match made:
        case (torch.nn.Module() as model, tuple(examples)) if examples:
            return UsersModel(torch, model.eval(), examples)
        case _:
            raise WorkloadError(
                f"{text}: expected a torch.nn.Module and a tuple of example inputs, got "
                f"{type(made).__name__}"
            )


def users_onnx(file: Path) -> Any:
    """Reads an ONNX file as `onnx.ModelProto`.

    Raises:
        WorkloadError: It is missing or broken, or the package onnx is missing.
    """
    if not file.is_file():
        raise WorkloadError(f"{file}: no such file")
    onnx = _imported("onnx", str(file))
    try:
        return onnx.load(str(file))
    except Exception as error:  # whatever protobuf stumbles over
        raise WorkloadError(f"{file}: cannot be read ({last_line(error)})") from error


def _imported(package: str, text: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise WorkloadError(f"{text}: needs the package {package} ({error})") from error
