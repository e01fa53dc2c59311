"""Workloads as users name them: text such as `matmul:512,512,512`, or a file of their own."""

import dataclasses
import importlib
import importlib.util
import math
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cwm_jax.errors import WorkloadError, described, last_line
from cwm_jax.workloads.networks import Network, parse_network
from cwm_jax.workloads.operators import OPERATORS, Operator

_MAX_ELEMENTS = 2**31
_INTEGER = re.compile(r"-?[0-9]+")
_MOST_DIGITS = 20
_MOST_INTEGER = 2**63 - 1

Argument = int | str


@dataclasses.dataclass(frozen=True)
class Workload:
    """A parsed workload.

    Attributes:
        operator: Name in `OPERATORS`, or of a function in `file`.
        arguments: Its arguments.
        file: Python file of a user's own function, None for a built-in operator.
    """

    operator: str
    arguments: tuple[Argument, ...]
    file: Path | None = None


@dataclasses.dataclass(frozen=True)
class Subgraph:
    """One task of a network.

    Attributes:
        network: The network.
        position: Among its tasks, from 0, in the order in which `cwm tune --network` lists them.
    """

    network: Network
    position: int


def operators_help() -> str:
    """Returns the help text that lists the operators."""
    lines = ["workloads:"]
    for name, operator in OPERATORS.items():
        lines += [f"  {_signature(name, operator)}", f"      {operator.meaning}"]
        lines.append(f"      for example {operator.example}")
    own = (
        "a function in a Python file of yours that takes ARGUMENTS (integers stay integers) and "
        "returns the input and output tensors of a TE computation, as "
        "tvm.auto_scheduler.register_workload expects"
    )
    lines.append("  NETWORK#N")
    lines.append("      the N-th task of a built-in network, counted from 0: resnet-50:1,NHWC#3")
    lines.append("  FILE.py:FUNCTION[:ARGUMENT,...]")
    lines += [f"      {line}" for line in textwrap.wrap(own, 76)]
    return "\n".join(lines)


def _signature(name: str, operator: Operator) -> str:
    return f"{name}:{','.join(operator.numbers)}[,{'|'.join(operator.option)}]"


def parse_workload(text: str) -> Workload | Subgraph:
    """Reads `OPERATOR:ARGUMENTS`, `NETWORK#N` or `FILE.py:FUNCTION:ARGUMENTS`.

    Raises:
        WorkloadError: The operator is unknown or its arguments make no sense.
    """
    head, _, rest = text.partition(":")
    if head.endswith(".py"):
        function, _, arguments = rest.partition(":")
        if not function.isidentifier():
            raise WorkloadError(f"{text!r}: expected FILE.py:FUNCTION:ARGUMENTS")
        values = tuple(_integer_or_text(part, text) for part in arguments.split(",") if part)
        return Workload(function, values, Path(head))
    network, _, position = text.rpartition("#")
    if network:
        if not (position.isascii() and position.isdecimal()):
            raise WorkloadError(f"{text!r}: expected NETWORK#N, N an integer from 0")
        return Subgraph(parse_network(network), int(position))
    operator = OPERATORS.get(head)
    if operator is None:
        known = ", ".join(OPERATORS)
        raise WorkloadError(f"unknown workload {head!r}, expected one of {known}, or FILE.py:...")
    parts = [part.strip() for part in rest.split(",")]
    option = operator.option[0]
    if len(parts) == len(operator.numbers) + 1 and parts[-1] in operator.option:
        option = parts.pop()
    signature = _signature(head, operator)
    if len(parts) != len(operator.numbers):
        raise WorkloadError(f"{text!r}: {len(parts)} arguments, expected {signature}")
    numbers: list[int] = []
    for name, part in zip(operator.numbers, parts, strict=True):
        least = 0 if name == "PADDING" else 1
        value = int(part) if part.isascii() and part.isdecimal() and len(part) < 12 else -1
        if value < least:
            raise WorkloadError(
                f"{text!r}: {name} is {part!r}, expected an integer >= {least} in {signature}"
            )
        numbers.append(value)
    for shape in operator.shapes(*numbers):
        if math.prod(shape) > _MAX_ELEMENTS:
            raise WorkloadError(f"{text!r}: a tensor of shape {shape} is too large")
    return Workload(head, (*numbers, option))


def _integer_or_text(part: str, workload: str) -> Argument:
    part = part.strip()
    if not _INTEGER.fullmatch(part):
        return part
    value = int(part) if len(part) <= _MOST_DIGITS else _MOST_INTEGER + 1
    if not -_MOST_INTEGER <= value <= _MOST_INTEGER:
        raise WorkloadError(
            f"{workload[:80]!r}: the argument {part[:40]} is no integer that TVM can hold, "
            "expected one of at most 64 bits"
        )
    return value


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
