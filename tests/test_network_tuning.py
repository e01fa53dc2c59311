"""A whole network, tuned, compiled, run and exported."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from support.small_onnx import expected, write_onnx

from cwm_jax import load_records
from cwm_jax.cli.main import main
from cwm_jax.errors import WorkloadError
from cwm_jax.search.confirmation import best_record
from cwm_jax.tuning.ansor.relay import load_network
from cwm_jax.tuning.measurement import reference_path
from cwm_jax.tuning.reference import read_reference

pytestmark = pytest.mark.long
RUN_ALONE = """
import sys, numpy as np
from cwm_jax.tvm_bridge.runtime import use
tvm = use("ansor")
library = tvm.runtime.load_module(sys.argv[1])
executor = tvm.contrib.graph_executor.GraphModule(library["default"](tvm.cpu(0)))
executor.run(data=np.load(sys.argv[2]))
np.save(sys.argv[3], executor.get_output(0).numpy())
"""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    arguments = ["tune", "--network", "mlp:2", "--trials", "16", "--round", "2", "--confirm", "8"]
    arguments += ["--log", str(folder / "log.jsonl"), "--json", str(folder / "out.json")]
    arguments += ["--population", "64"]
    assert main([*arguments, "--export", str(folder / "mlp.so")]) == 0
    return folder


def test_every_task_of_a_network_is_tuned(tuned):
    data = json.loads((tuned / "out.json").read_text())
    records = load_records(tuned / "log.jsonl")
    assert data["trials"] == 16 == len(records)
    # Two programs each, both measured again.
    assert [task["trials"] for task in data["tasks"]] == [4, 4, 4, 4]
    assert len({(record.workload_key, record.steps) for record in records}) == 8
    for task in data["tasks"]:
        measured = [record for record in records if record.workload_key == task["workload_key"]]
        best = best_record(measured)
        assert len(best.costs) == 2
        assert task["best_latency"] == pytest.approx(best.latency)
    assert data["estimated_latency"] == pytest.approx(
        sum(task["weight"] * task["best_latency"] for task in data["tasks"])
    )
    assert 0 < data["latency"] < 1


def test_the_exported_network_computes_what_the_network_says(tuned, tmp_path, tvm):
    """Run by a process that loads nothing of this package but the TVM it finds."""
    source = load_network(tvm, "mlp:2", seed=0)
    shape, _ = source.inputs["data"]
    data = np.random.default_rng(1).random(shape, np.float32)
    np.save(tmp_path / "in.npy", data)
    script = textwrap.dedent(RUN_ALONE)
    paths = [str(tuned / "mlp.so"), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", script, *paths], check=True, timeout=120)
    with tvm.transform.PassContext(opt_level=0):
        plain = tvm.relay.create_executor(
            "graph", source.module, tvm.cpu(0), "llvm", dict(source.params)
        ).evaluate()(tvm.nd.array(data))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), plain.numpy(), rtol=1e-3, atol=1e-4)


def test_a_network_resumes_from_its_log(tuned, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes((tuned / "log.jsonl").read_bytes())
    out = tmp_path / "out.json"
    arguments = ["tune", "--network", "mlp:2", "--trials", "18", "--round", "2"]
    arguments += ["--population", "64"]
    assert main([*arguments, "--resume", str(log), "--json", str(out)]) == 0
    assert len(load_records(log)) == 18
    assert json.loads(out.read_text())["trials"] == 18


def test_tasks_of_a_network_are_measured_at_one_level(tmp_path):
    log = tmp_path / "log.jsonl"
    arguments = ["tune", "--network", "mlp:1", "--trials", "5", "--round", "1", "--confirm", "0"]
    arguments += ["--cost-model", "random", "--population", "64", "--reference-every", "1"]
    assert main([*arguments, "--log", str(log)]) == 0
    assert {len(record.costs) for record in load_records(log)} == {3}
    runs = read_reference(reference_path(log))
    assert len(runs) >= 5
    assert {run.level for run in runs} == {runs[0].level}
    assert main([*arguments[:-2], "--trials", "6", "--resume", str(log)]) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alexnet", "unknown network"),
        ("missing.py:net", "no such Python file"),
        ("missing.onnx", "no such file"),
        ("net.py", "expected FILE.py:FUNCTION"),
    ],
)
def test_unknown_networks_are_named(text, says, tvm):
    with pytest.raises(WorkloadError, match=says):
        load_network(tvm, text)


def test_an_onnx_network_computes_what_it_computed(tvm, tmp_path):
    source = load_network(tvm, str(write_onnx(tmp_path / "net.onnx", 1)))
    assert source.inputs == {"x": ((1, 3, 16, 16), "float32")}
    library = tvm.relay.build(source.module, "llvm", params=dict(source.params))
    executor = tvm.contrib.graph_executor.GraphModule(library["default"](tvm.cpu(0)))
    image = np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)
    executor.run(x=image)
    found = executor.get_output(0).numpy()
    np.testing.assert_allclose(found, expected(image), rtol=1e-4, atol=1e-4)
    with pytest.raises(WorkloadError, match="input 'x' has no fixed shape"):
        load_network(tvm, str(write_onnx(tmp_path / "dynamic.onnx", "n")))


def test_too_few_trials_for_all_tasks(capsys):
    assert main(["tune", "--network", "mlp", "--trials", "1"]) == 2
    assert "each needs at least one" in capsys.readouterr().err.replace("\n", " ")
