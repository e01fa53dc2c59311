"""A small convolutional network as an ONNX file, and what it computes."""

import numpy as np
import onnx

WEIGHTS = np.random.default_rng(0)
KERNEL = WEIGHTS.normal(size=(8, 3, 3, 3)).astype(np.float32)
BIAS = WEIGHTS.normal(size=8).astype(np.float32)
DENSE = WEIGHTS.normal(size=(8, 10)).astype(np.float32)


def write_onnx(path, batch):
    """Convolution, mean over the image, dense layer."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    constants = [
        numpy_helper.from_array(array, name)
        for name, array in (("kernel", KERNEL), ("bias", BIAS), ("dense", DENSE))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["y"]),
    ]
    of = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [of("x", onnx.TensorProto.FLOAT, [batch, 3, 16, 16])],
        [of("y", onnx.TensorProto.FLOAT, [batch, 10])],
        constants,
    )
    version = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=version, ir_version=9), str(path))
    return path


def expected(image):
    """What the network computes, in NumPy."""
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    conv = np.einsum("nchwij,ocij->nohw", windows, KERNEL) + BIAS[:, None, None]
    return np.maximum(conv, 0).mean((2, 3)) @ DENSE
