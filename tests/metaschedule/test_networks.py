"""Whole networks in Relax: extracted, tuned, compiled, resumed."""

import orjson
import pytest

from cwm_jax.cli.main import main
from cwm_jax.errors import WorkloadError
from cwm_jax.records.logs import load_records
from cwm_jax.tuning.measurement import TuningConfig
from cwm_jax.tuning.metaschedule.engine import MetaScheduleEngine
from cwm_jax.tuning.metaschedule.networks import compile_network
from cwm_jax.tuning.metaschedule.relax import extract_modules, relax_module
from cwm_jax.tuning.metaschedule.targets import create_module
from cwm_jax.tuning.network import tune_network
from cwm_jax.tuning.reference import read_reference
from cwm_jax.tvm_bridge.metaschedule.cost_model import workload_key
from cwm_jax.tvm_bridge.metaschedule.graphs import read_graph
from cwm_jax.workloads.networks import NETWORKS, parse_network
from cwm_jax.workloads.parse import parse_workload

pytestmark = pytest.mark.long


def graphs_of(tvm, tasks):
    return [read_graph(tvm, module, workload_key(module)) for module, _ in tasks]


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_every_network_can_be_read(tvm, target, network):
    tasks = extract_modules(tvm, relax_module(tvm, parse_network(network)), target)
    graphs = graphs_of(tvm, tasks)
    assert len({graph.workload_key for graph in graphs}) == len(graphs)
    assert all(weight > 0 for _, weight in tasks)


@pytest.mark.parametrize(
    ("network", "flop"),
    [("resnet-50:1,NHWC", 8.2e9), ("resnet-50:1,NCHW", 8.2e9), ("bert-base:1", 22.5e9)],
)
def test_a_network_has_the_operations_of_its_paper(tvm, target, network, flop):
    tasks = extract_modules(tvm, relax_module(tvm, parse_network(network)), target)
    graphs = graphs_of(tvm, tasks)
    total = sum(p.flop * weight for p, (_, weight) in zip(graphs, tasks, strict=True))
    assert total == pytest.approx(flop, rel=0.05)


def test_a_task_is_a_workload(tvm, target):
    tasks = extract_modules(tvm, relax_module(tvm, parse_network("mlp:1")), target)
    module = create_module(tvm, parse_workload("mlp:1#2"), target)
    (graph,) = graphs_of(tvm, [(module, 1)])
    assert graph == graphs_of(tvm, tasks)[2]
    with pytest.raises(WorkloadError, match="has 4 tasks"):
        create_module(tvm, parse_workload("mlp:1#4"), target)


def test_every_function_of_a_network_gets_its_program(tvm, target, tmp_path, capfd):
    """Attention has more to fuse when TVM fuses once more, into what no record is of."""
    network = parse_network("bert-tiny:1")
    module = relax_module(tvm, network)
    tasks = extract_modules(tvm, module, target)
    config = TuningConfig(
        trials=len(tasks), round_size=1, cost_model="random", min_repeat_ms=5, population=32
    )
    engine = MetaScheduleEngine(tvm, target)
    tune_network(engine, [engine.task(*task) for task in tasks], config, tmp_path)
    capfd.readouterr()
    compile_network(tvm, module, target, tmp_path)
    assert "not found" not in capfd.readouterr().err
    # Else it is said.
    compile_network(tvm, relax_module(tvm, parse_network("mlp:1")), target, tmp_path)
    assert "not found" in capfd.readouterr().err


def test_cwm_tune_tunes_compiles_and_resumes_a_network(tvm, tmp_path, capsys):
    folder, out, library = tmp_path / "search", tmp_path / "out.json", tmp_path / "mlp.so"
    common = ["tune", "--engine", "metaschedule", "--network", "mlp:1", "--round", "2"]
    common += ["--json", str(out), "--reference-every", "2", "--population", "64"]
    assert main([*common, "--trials", "4", "--log", str(folder)]) == 0
    first = orjson.loads(out.read_bytes())
    assert [task["trials"] for task in first["tasks"]] == [1, 1, 1, 1]
    assert 0 < first["latency"] < 1
    more = ["--trials", "20", "--resume", str(folder), "--export", str(library)]
    more += ["--confirm", "8"]
    assert main([*common, *more]) == 0
    second = orjson.loads(out.read_bytes())
    records = load_records(folder / "records.jsonl")
    assert 12 < second["trials"] == len(records) <= 20
    runs = read_reference(folder / "records.reference.jsonl")
    assert {run.level for run in runs} == {runs[0].level}  # of all tasks, and after resuming
    assert len({(record.workload_key, record.steps) for record in records}) == 12
    loaded = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    assert loaded is not None
    assert main([*common, "--trials", "3", "--log", str(tmp_path / "few")]) == 2
    assert "has 4 tasks" in capsys.readouterr().err
    confirming = ["--trials", "10", "--confirm", "8", "--log", str(tmp_path / "few")]
    assert main([*common, *confirming]) == 2
    assert "--trials 10 less --confirm 8" in capsys.readouterr().err
