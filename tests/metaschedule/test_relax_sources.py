"""A user's own network in Relax: what is imported computes what it computed."""

import os
import re

import numpy as np
import orjson
import pytest
from support.small_onnx import expected, write_onnx

from cwm_jax.cli.main import main
from cwm_jax.errors import WorkloadError
from cwm_jax.tuning.metaschedule.relax import load_relax_network


def run(tvm, executable, image):
    machine = tvm.relax.VirtualMachine(executable, tvm.cpu())
    return machine["main"](tvm.runtime.tensor(image)).numpy()


def test_an_onnx_network_is_tuned_and_exported(tvm, tmp_path):
    model, library = write_onnx(tmp_path / "net.onnx", 1), tmp_path / "net.so"
    out = tmp_path / "out.json"
    command = ["tune", "--engine", "metaschedule", "--network", str(model), "--trials", "8"]
    command += ["--round", "2", "--log", str(tmp_path / "log"), "--export", str(library)]
    assert main([*command, "--json", str(out)]) == 0
    assert orjson.loads(out.read_bytes())["latency"] > 0
    image = np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)
    found = run(tvm, tvm.runtime.load_module(str(library)), image)
    np.testing.assert_allclose(found, expected(image), rtol=1e-4, atol=1e-4)


def test_a_pytorch_network_computes_the_same(tvm, tmp_path):
    """Where PyTorch is installed: batch normalisation is folded into the convolution."""
    torch = pytest.importorskip("torch")
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    layers = [torch.nn.Conv2d(3, 8, 3, padding=1, bias=False),\n"
        "        torch.nn.BatchNorm2d(8),\n"
        "        torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),\n"
        "        torch.nn.Linear(8, 4)]\n"
        "    return torch.nn.Sequential(*layers), (torch.randn(1, 3, 16, 16),)\n"
        "def wrong():\n"
        "    return 3\n"
    )
    source = load_relax_network(tvm, f"{file}:net")
    assert source.name == "net-net"
    assert re.search(r"fused_conv2d_add\d*_relu", source.module.script())
    namespace = {}
    exec(file.read_text(), namespace)
    model, (image,) = namespace["net"]()
    with torch.no_grad():
        reference = model.eval()(image).numpy()
    found = run(tvm, tvm.relax.build(source.module, "llvm"), image.numpy())
    np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-5)
    with pytest.raises(WorkloadError, match=r"expected a torch\.nn\.Module .* got int"):
        load_relax_network(tvm, f"{file}:wrong")


def test_networks_that_cannot_be_tuned_are_refused_in_words(tvm, tmp_path):
    dynamic = write_onnx(tmp_path / "dynamic.onnx", "n")
    with pytest.raises(WorkloadError, match="input x has no fixed shape"):
        load_relax_network(tvm, str(dynamic))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(os.urandom(64))
    with pytest.raises(WorkloadError, match=r"broken\.onnx: "):
        load_relax_network(tvm, str(broken))
    with pytest.raises(WorkloadError, match="no such file"):
        load_relax_network(tvm, "missing.onnx")
    with pytest.raises(WorkloadError, match="expected FILE"):
        load_relax_network(tvm, "net.py")
