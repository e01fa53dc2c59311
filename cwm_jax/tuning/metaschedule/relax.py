"""The networks of `cwm_jax.workloads.networks` as Relax modules, for MetaSchedule."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cwm_jax.errors import WorkloadError, last_line
from cwm_jax.workloads.networks import Network, build_network, parse_network
from cwm_jax.workloads.parse import users_model, users_onnx

_DATA = "data"


class RelaxOps:
    """Creates Relax expressions under the names that Relay has for them.

    Args:
        tvm: A TVM with Relax.
        builder: `relax.BlockBuilder` inside a dataflow block, which takes every expression in.
    """

    def __init__(self, tvm: Any, builder: Any) -> None:
        self._relax = tvm.relax
        self._op = tvm.relax.op
        self._builder = builder
        self.variables: list[Any] = []
        self.nn = self

    def _emit(self, expression: Any) -> Any:
        return self._builder.emit(expression)

    def var(self, name: str, shape: Sequence[int], dtype: str) -> Any:
        """An input or a weight."""
        variable = self._relax.Var(name, self._relax.TensorType(tuple(shape), dtype))
        self.variables.append(variable)
        return variable

    def const(self, value: float) -> Any:
        """A scalar."""
        return self._relax.const(value, "float32")

    def zeros(self, shape: Sequence[int], dtype: str) -> Any:
        """A tensor of zeros."""
        return self._emit(self._op.zeros(tuple(shape), dtype))

    def add(self, left: Any, right: Any) -> Any:
        """Element-wise sum."""
        return self._emit(self._op.add(left, right))

    def multiply(self, left: Any, right: Any) -> Any:
        """Element-wise product."""
        return self._emit(self._op.multiply(left, right))

    def clip(self, value: Any, low: float, high: float) -> Any:
        """Limits entries."""
        return self._emit(self._op.clip(value, low, high))

    def tanh(self, value: Any) -> Any:
        """Hyperbolic tangent."""
        return self._emit(self._op.tanh(value))

    def sigmoid(self, value: Any) -> Any:
        """Logistic function."""
        return self._emit(self._op.sigmoid(value))

    def erf(self, value: Any) -> Any:
        """Error function."""
        return self._emit(self._op.erf(value))

    def relu(self, value: Any) -> Any:
        """Positive part."""
        return self._emit(self._op.nn.relu(value))

    def softmax(self, value: Any, axis: int) -> Any:
        """Softmax along an axis."""
        return self._emit(self._op.nn.softmax(value, axis=axis))

    def reshape(self, value: Any, shape: Sequence[int]) -> Any:
        """The same entries in another shape."""
        return self._emit(self._op.reshape(value, tuple(shape)))

    def transpose(self, value: Any, axes: Sequence[int]) -> Any:
        """Permuted axes."""
        return self._emit(self._op.permute_dims(value, list(axes)))

    def squeeze(self, value: Any, axis: Sequence[int]) -> Any:
        """Drops axes of extent 1."""
        return self._emit(self._op.squeeze(value, list(axis)))

    def split(self, value: Any, sections: int, axis: int) -> list[Any]:
        """Equal parts along an axis."""
        parts = self._emit(self._op.split(value, sections, axis))
        return [self._emit(self._relax.TupleGetItem(parts, at)) for at in range(sections)]

    def concatenate(self, parts: Sequence[Any], axis: int) -> Any:
        """Joins along an axis."""
        return self._emit(self._op.concat(list(parts), axis=axis))

    def mean(self, value: Any, axis: int) -> Any:
        """Mean along an axis."""
        return self._emit(self._op.mean(value, axis))

    def bias_add(self, value: Any, bias: Any, axis: int) -> Any:
        """Adds one number a channel."""
        rank = len(value.ty.shape)
        shape = [1] * rank
        shape[axis] = -1
        return self.add(value, bias if axis in (-1, rank - 1) else self.reshape(bias, shape))

    def dense(self, value: Any, weight: Any) -> Any:
        """Product with a transposed weight."""
        return self.batch_matmul(value, weight)

    def batch_matmul(self, left: Any, right: Any) -> Any:
        """Products of matrices, the right ones transposed."""
        turned = self._emit(self._op.permute_dims(right, _last_two_swapped(right)))
        return self._emit(self._op.matmul(left, turned))

    def conv2d(
        self,
        value: Any,
        weight: Any,
        *,
        strides: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
        channels: int,
        kernel_size: tuple[int, int],
        data_layout: str,
        kernel_layout: str,
    ) -> Any:
        """Convolution."""
        return self._emit(
            self._op.nn.conv2d(
                value,
                weight,
                strides=strides,
                padding=padding,
                groups=groups,
                data_layout=data_layout,
                kernel_layout=kernel_layout,
            )
        )

    def conv2d_transpose(
        self,
        value: Any,
        weight: Any,
        *,
        strides: tuple[int, int],
        padding: tuple[int, int],
        channels: int,
        kernel_size: tuple[int, int],
    ) -> Any:
        """Transposed convolution, NCHW."""
        return self._emit(
            self._op.nn.conv2d_transpose(value, weight, strides=strides, padding=padding)
        )

    def max_pool2d(self, value: Any, **window: Any) -> Any:
        """Maximum of windows: `pool_size`, `strides`, `padding` and `layout`."""
        return self._emit(self._op.nn.max_pool2d(value, **window))

    def avg_pool2d(self, value: Any, **window: Any) -> Any:
        """Mean of windows: `pool_size`, `strides`, `padding` and `layout`."""
        return self._emit(self._op.nn.avg_pool2d(value, **window))

    def global_avg_pool2d(self, value: Any, layout: str) -> Any:
        """Mean of each channel."""
        axes = [layout.index("H"), layout.index("W")]
        return self._emit(self._op.mean(value, axes, keepdims=True))

    def batch_flatten(self, value: Any) -> Any:
        """To [batch, entries]."""
        batch = int(value.ty.shape[0])
        return self.reshape(value, (batch, -1))

    def layer_norm(self, value: Any, gamma: Any, beta: Any) -> Any:
        """Layer normalisation of the last axis."""
        return self._emit(self._op.nn.layer_norm(value, gamma, beta, axes=[-1]))


def _last_two_swapped(value: Any) -> list[int]:
    axes = list(range(len(value.ty.shape)))
    axes[-2:] = axes[-1], axes[-2]
    return axes


def relax_module(tvm: Any, network: Network, target: Any | None = None) -> Any:
    """Returns a network's `tvm.IRModule`, prepared: `main` takes the input, then the weights.

    Args:
        tvm: A TVM with Relax.
        network: The network to build.
        target: As for `prepare_module`.
    """
    builder = tvm.relax.BlockBuilder()
    with builder.function("main"):
        with builder.dataflow():
            ops = RelaxOps(tvm, builder)
            out = builder.emit_output(build_network(ops, network).value)
        inputs = sorted(ops.variables, key=lambda variable: str(variable.name) != _DATA)
        builder.emit_func_output(out, inputs)
    return prepare_module(tvm, builder.get(), target)


def prepare_module(tvm: Any, module: Any, target: Any | None = None) -> Any:
    """Lowers and fuses the operators of a module, so that MetaSchedule finds its tasks.

    Args:
        tvm: A TVM with Relax.
        module: `tvm.IRModule`.
        target: TVM target, which decides how sorts and scans are lowered; by default any CPU.
    """
    passes, backend = tvm.relax.transform, tvm.relax.backend
    prepare = tvm.transform.Sequential(
        [
            # As in TVM's default pipelines: nothing else lowers sorts, scans and sampling.
            backend.DispatchSampling(),
            backend.DispatchSortScan(),
            passes.FoldBatchnormToConv2D(),
            passes.DecomposeOpsForInference(),
            passes.FuseTransposeMatmul(),
            passes.LegalizeOps(),
            passes.AnnotateTIROpPattern(),
            passes.FoldConstant(),
            passes.FuseOps(),
            passes.FuseTIR(),
            passes.DeadCodeElimination(),
        ]
    )
    with target or tvm.target.Target("llvm"):
        return prepare(module)


def extract_modules(tvm: Any, module: Any, target: Any) -> list[tuple[Any, int]]:
    """Returns the modules of one function that MetaSchedule tunes, and how often each occurs.

    Args:
        tvm: A TVM with Relax.
        module: The network (`relax_module`).
        target: `tvm.target.Target`.
    """
    integration = tvm.s_tir.meta_schedule.relax_integration
    found = integration.extract_tasks(module, target, {})
    return [(task.dispatched[0], int(task.weight)) for task in found]


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
        text: A built-in network's name, `FILE.py:FUNCTION`, or `FILE.onnx`.
        target: TVM target (`prepare_module`).

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
