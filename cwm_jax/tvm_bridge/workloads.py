"""Workloads as text (`matmul:512,512,512`) -> Ansor search tasks."""

import dataclasses
import importlib.util
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cwm_jax.errors import WorkloadError

_MAX_ELEMENTS = 2**31
_DTYPES = ("float32", "float16", "float64")
_LAYOUTS = ("NHWC", "NCHW")

Argument = int | str


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator that can be named on the command line.

    Attributes:
        numbers: Names of its integer arguments.
        option: What an optional last argument may be; its first entry is the default.
        meaning: One line of help.
        example: A workload.
        shapes: Integer arguments -> shapes of the tensors it holds, to check their sizes.
    """

    numbers: tuple[str, ...]
    option: tuple[str, ...]
    meaning: str
    example: str
    shapes: Callable[..., list[tuple[int, ...]]]


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


def _image(n: int, h: int, w: int, channels: int, kernel: int, stride: int, padding: int) -> Any:
    if kernel > min(h, w) + 2 * padding:
        raise WorkloadError(
            f"a kernel of {kernel} does not fit an image of {h}x{w} padded by {padding}"
        )
    out = [(side + 2 * padding - kernel) // stride + 1 for side in (h, w)]
    return [(n, h + 2 * padding, w + 2 * padding, channels), (n, *out, channels)]


_CONV2D = ("N", "H", "W", "CI", "CO", "KERNEL", "STRIDE", "PADDING")
_DEPTHWISE = ("N", "H", "W", "C", "KERNEL", "STRIDE", "PADDING")

OPERATORS: dict[str, Operator] = {
    "matmul": Operator(
        ("M", "N", "K"),
        _DTYPES,
        "[M,K] x [K,N]",
        "matmul:512,512,512",
        lambda m, n, k: [(m, k), (k, n), (m, n)],
    ),
    "dense": Operator(
        ("BATCH", "IN", "OUT"),
        _DTYPES,
        "fully connected layer: [BATCH,IN] x [OUT,IN] transposed",
        "dense:16,768,1024",
        lambda b, i, o: [(b, i), (o, i), (b, o)],
    ),
    "batch_matmul": Operator(
        ("BATCH", "M", "N", "K"),
        _DTYPES,
        "[BATCH,M,K] x [BATCH,K,N]",
        "batch_matmul:12,128,128,64",
        lambda b, m, n, k: [(b, m, k), (b, k, n), (b, m, n)],
    ),
    "conv2d": Operator(
        _CONV2D,
        _LAYOUTS,
        "2-D convolution of N images of H x W x CI, square kernel",
        "conv2d:1,56,56,64,64,3,1,1",
        lambda n, h, w, i, o, k, s, p: [*_image(n, h, w, max(i, o), k, s, p), (k, k, i, o)],
    ),
    "depthwise_conv2d": Operator(
        _DEPTHWISE,
        _LAYOUTS,
        "2-D convolution of each channel by itself",
        "depthwise_conv2d:1,112,112,32,3,1,1",
        lambda n, h, w, c, k, s, p: _image(n, h, w, c, k, s, p),
    ),
    "softmax": Operator(
        ("ROWS", "COLUMNS"),
        _DTYPES,
        "softmax over the columns of each row",
        "softmax:1024,1024",
        lambda rows, columns: [(rows, columns)],
    ),
}


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
    lines.append("  FILE.py:FUNCTION[:ARGUMENT,...]")
    lines += [f"      {line}" for line in textwrap.wrap(own, 76)]
    return "\n".join(lines)


def _signature(name: str, operator: Operator) -> str:
    return f"{name}:{','.join(operator.numbers)}[,{'|'.join(operator.option)}]"


def parse_workload(text: str) -> Workload:
    """Reads `OPERATOR:ARGUMENTS` or `FILE.py:FUNCTION:ARGUMENTS`.

    Raises:
        WorkloadError: The operator is unknown or its arguments make no sense.
    """
    head, _, rest = text.partition(":")
    if head.endswith(".py"):
        function, _, arguments = rest.partition(":")
        if not function.isidentifier():
            raise WorkloadError(f"{text!r}: expected FILE.py:FUNCTION:ARGUMENTS")
        values = tuple(_integer_or_text(part) for part in arguments.split(",") if part)
        return Workload(function, values, Path(head))
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


def _integer_or_text(part: str) -> Argument:
    part = part.strip()
    return int(part) if part.isascii() and part.lstrip("-").isdecimal() else part


def create_task(tvm: Any, workload: Workload, target: Any) -> Any:
    """Registers a workload with Ansor and returns its `auto_scheduler.SearchTask`.

    Raises:
        WorkloadError: A user's function is missing, fails, or returns no TE tensors.
    """
    if workload.file is None:
        function = _builtin(tvm, workload.operator)
        name = workload.operator
    else:
        function = _users_function(workload.file, workload.operator)
        name = f"{workload.file.stem}.{workload.operator}"
    _check_tensors(tvm, function, workload)
    tvm.auto_scheduler.register_workload(name, f=function, override=True)
    # Weights keep the layout the user gave them: rewriting it ahead of time needs a network
    # compiler around the operator, and TVM fails to build such a candidate by itself.
    keep = tvm.auto_scheduler.LayoutRewriteOption.NO_REWRITE
    return tvm.auto_scheduler.SearchTask(
        func=name, args=workload.arguments, target=target, layout_rewrite_option=keep
    )


def _users_function(file: Path, name: str) -> Callable[..., Any]:
    if not file.is_file():
        raise WorkloadError(f"{file}: no such Python file")
    spec = importlib.util.spec_from_file_location(f"cwm_workload_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise WorkloadError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        raise WorkloadError(f"{file}: does not load ({error})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise WorkloadError(f"{file}: has no function {name!r}")
    return function


def _check_tensors(tvm: Any, function: Callable[..., Any], workload: Workload) -> None:
    shown = f"{workload.operator}{workload.arguments}"
    try:
        tensors = function(*workload.arguments)
    except Exception as error:  # a user's code, or TVM's checks of the shapes
        raise WorkloadError(f"{shown}: cannot be built ({error})") from error
    is_sequence = isinstance(tensors, Sequence) and len(tensors) > 0
    if not is_sequence or not all(isinstance(t, tvm.te.Tensor) for t in tensors):
        raise WorkloadError(f"{shown}: expected it to return the TE tensors of inputs and outputs")


def _builtin(tvm: Any, operator: str) -> Callable[..., Any]:
    """The TE computation of a built-in operator; the function's arguments are the workload's."""
    te, topi = tvm.te, tvm.topi

    def matmul(m: int, n: int, k: int, dtype: str) -> list[Any]:
        left = te.placeholder((m, k), dtype, name="A")
        right = te.placeholder((k, n), dtype, name="B")
        inner = te.reduce_axis((0, k), name="k")
        out = te.compute(
            (m, n), lambda i, j: te.sum(left[i, inner] * right[inner, j], axis=inner), name="C"
        )
        return [left, right, out]

    def dense(batch: int, inputs: int, outputs: int, dtype: str) -> list[Any]:
        data = te.placeholder((batch, inputs), dtype, name="data")
        weight = te.placeholder((outputs, inputs), dtype, name="weight")
        return [data, weight, topi.nn.dense(data, weight)]

    def batch_matmul(batch: int, m: int, n: int, k: int, dtype: str) -> list[Any]:
        left = te.placeholder((batch, m, k), dtype, name="A")
        right = te.placeholder((batch, k, n), dtype, name="B")
        out = topi.nn.batch_matmul(left, right, transpose_a=False, transpose_b=False)
        return [left, right, out]

    def conv2d(
        n: int,
        h: int,
        w: int,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        padding: int,
        layout: str,
    ) -> list[Any]:
        if layout == "NHWC":
            data = te.placeholder((n, h, w, inputs), name="data")
            weight = te.placeholder((kernel, kernel, inputs, outputs), name="weight")
            out = topi.nn.conv2d_nhwc(data, weight, stride, padding, 1)
        else:
            data = te.placeholder((n, inputs, h, w), name="data")
            weight = te.placeholder((outputs, inputs, kernel, kernel), name="weight")
            out = topi.nn.conv2d_nchw(data, weight, stride, padding, 1)
        return [data, weight, out]

    def depthwise_conv2d(
        n: int, h: int, w: int, channels: int, kernel: int, stride: int, padding: int, layout: str
    ) -> list[Any]:
        strides, pads = (stride, stride), (padding, padding)
        if layout == "NHWC":
            data = te.placeholder((n, h, w, channels), name="data")
            weight = te.placeholder((kernel, kernel, channels, 1), name="weight")
            out = topi.nn.depthwise_conv2d_nhwc(data, weight, strides, pads, (1, 1))
        else:
            data = te.placeholder((n, channels, h, w), name="data")
            weight = te.placeholder((channels, 1, kernel, kernel), name="weight")
            out = topi.nn.depthwise_conv2d_nchw(data, weight, strides, pads, (1, 1))
        return [data, weight, out]

    def softmax(rows: int, columns: int, dtype: str) -> list[Any]:
        data = te.placeholder((rows, columns), dtype, name="data")
        return [data, topi.nn.softmax(data)]

    functions = (matmul, dense, batch_matmul, conv2d, depthwise_conv2d, softmax)
    return next(function for function in functions if function.__name__ == operator)
