"""Whatever TVM tunes is ranked, and what cannot be read costs its own ranking only."""

import re
import warnings

import numpy as np
import onnx
import orjson
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import hand_written as hand
from support.final_loops import final_loops

from cwm_jax.cli.main import main
from cwm_jax.errors import WorkloadError
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import graph_from_json, graph_to_json, shape_only_graph
from cwm_jax.records.logs import load_records
from cwm_jax.tuning.loop import tune_task
from cwm_jax.tuning.measurement import TuningConfig
from cwm_jax.tuning.metaschedule.engine import MetaScheduleEngine
from cwm_jax.tuning.metaschedule.networks import check_network
from cwm_jax.tuning.network import tune_network
from cwm_jax.tvm_bridge.metaschedule import WorldModelCostModel, builder, local_builder
from cwm_jax.tvm_bridge.metaschedule.cost_model import workload_key
from cwm_jax.tvm_bridge.metaschedule.graphs import UnreadWarning
from cwm_jax.tvm_bridge.metaschedule.tir import graph_of_module
from cwm_jax.tvm_bridge.metaschedule.traces import steps_of_candidates

pytestmark = pytest.mark.long
READABLE = {**hand.OPERATORS, **hand.LOOPS, **hand.BODIES}
KINDS = {0: "serial", 1: "parallel", 2: "vectorize", 3: "unroll"}
SMALL = TuningConfig(trials=2, round_size=2, cost_model="random", min_repeat_ms=5, population=32)


@pytest.fixture(scope="module")
def scorer():
    return Scorer.load("cpu-x86-zen4")


@pytest.fixture
def model(scorer):
    return WorldModelCostModel(scorer)


@pytest.fixture
def nothing_unread():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadWarning)
        yield


def drawn(tvm, target, module, space="post-order-apply", count=4):
    """Returns the context of a module, and candidates that TVM draws at random."""
    ms = tvm.s_tir.meta_schedule
    context = ms.TuneContext(
        mod=module,
        target=target,
        space_generator=space,
        search_strategy=ms.search_strategy.ReplayTrace(),
        task_name="main",
        rand_state=1,
    )
    database = ms.database.MemoryDatabase()
    database.commit_workload(module)
    spaces = context.generate_design_space()
    context.pre_tuning(count, count, spaces, database, ms.cost_model.RandomModel())
    return context, list(context.generate_measure_candidates() or ())


def measured(tvm, candidates, error=None):
    result = tvm.s_tir.meta_schedule.runner.RunnerResult
    return [result(None if error else [1.0], error) for _ in candidates]


@pytest.mark.usefixtures("nothing_unread")
@pytest.mark.parametrize("name", READABLE)
def test_functions_that_tvm_tunes_are_read_and_ranked(tvm, target, model, name):
    context, candidates = drawn(tvm, target, READABLE[name]())
    assert candidates
    assert np.isfinite(model.predict(context, candidates)).all()
    model.update(context, candidates, measured(tvm, candidates))
    assert np.isfinite(model.predict(context, candidates)).all()


@pytest.mark.parametrize("name", hand.LOOPS)
def test_initial_steps_lead_to_the_loops_that_are_there(tvm, name):
    module = hand.LOOPS[name]()
    graph = graph_of_module(tvm, module, "key")
    schedule = tvm.s_tir.Schedule(module)
    loops = [schedule.get(loop) for loop in schedule.get_loops(schedule.get_sblock("C", "main"))]
    expected = [(int(loop.extent), KINDS[int(loop.kind)]) for loop in loops]
    assert final_loops(graph, graph.initial_steps)["C"] == expected
    assert graph_from_json(graph_to_json(graph)) == graph


def test_a_program_of_tiles_still_says_what_it_computes(tvm):
    plain, tiled = (
        graph_of_module(tvm, make(), "key").stages[-1] for make in (hand.k_outermost, hand.tiled)
    )
    assert [(axis.name, axis.extent) for axis in plain.axes] == [("vi", 32), ("vj", 16), ("vk", 64)]
    assert [read.strides for read in plain.reads] == [(64, 0, 1), (0, 1, 16)]
    assert [(axis.extent, axis.reduction) for axis in tiled.axes] == [
        (30, False),
        (16, False),
        (64, True),
    ]
    (transposed,) = graph_of_module(tvm, hand.transposed(), "key").stages[1:]
    assert [axis.extent for axis in transposed.axes] == [64, 32]
    assert transposed.reads[0].strides == (1, 64)


@pytest.mark.usefixtures("nothing_unread")
@pytest.mark.parametrize("name", hand.SCHEDULES)
def test_schedules_written_by_hand_are_followed(tvm, target, model, name):
    make, schedule = hand.SCHEDULES[name]
    ms = tvm.s_tir.meta_schedule
    space = ms.space_generator.ScheduleFn(schedule, sch_rules=[], postprocs=[], mutator_probs={})
    context, candidates = drawn(tvm, target, make(), space)
    assert candidates
    assert np.isfinite(model.predict(context, candidates)).all()
    model.update(context, candidates, measured(tvm, candidates))


def test_what_cannot_be_read_is_said_once_and_ranked_all_the_same(tvm, target, scorer):
    context, candidates = drawn(tvm, target, hand.no_block())
    with pytest.warns(UnreadWarning) as caught:
        for model in (WorldModelCostModel(scorer), WorldModelCostModel(scorer)):
            for _ in range(2):
                assert np.isfinite(model.predict(context, candidates)).all()
            model.update(context, candidates, measured(tvm, candidates))
    (said,) = [str(warning.message) for warning in caught]
    assert said.startswith("main: program ")
    assert "it has no block" in said
    assert "ranked by what their traces say alone" in said


def test_a_trace_alone_tells_schedules_apart(tvm, target, create_task, scorer):
    task = create_task("dense:16,96,128")
    candidates = task.candidates(tvm, 8)
    alone = steps_of_candidates(tvm, candidates, shape_only_graph("a key"))
    assert len(set(alone)) == len(set(task.steps(tvm, candidates)))
    scores = scorer.rank_schedules(shape_only_graph("a key"), alone).score
    assert np.isfinite(scores).all()
    assert len(set(scores.tolist())) > 2
    other = graph_of_module(tvm, hand.transposed(), "a program of something else")
    with pytest.warns(UnreadWarning, match=r"cannot be followed, instruction 0 \(GetSBlock\)"):
        strangers = steps_of_candidates(tvm, candidates, other)
    assert len(set(strangers)) == len(set(alone))
    assert np.isfinite(scorer.rank_schedules(other, strangers).score).all()


def test_whatever_fails_in_ranking_is_said_and_ends_nothing(tvm, target, scorer):
    class Broken:
        def read(self, *_):
            raise ZeroDivisionError("a bug of ours")

    model = WorldModelCostModel(scorer, reader=Broken())
    context, candidates = drawn(tvm, target, hand.fused())
    with pytest.warns(UnreadWarning, match=r"cannot be ranked, ZeroDivisionError: a bug of ours"):
        assert model.predict(context, candidates).tolist() == [0.0] * len(candidates)


def test_update_says_why_nothing_ran(tvm, target, model):
    context, candidates = drawn(tvm, target, hand.tiled())
    results = measured(tvm, candidates, "Traceback\n  File x\nValueError: no compiler")
    with pytest.warns(UnreadWarning, match="all 4 candidates failed, 4 of them by: ValueError: no"):
        model.update(context, candidates, results)


def test_functions_are_tuned_beside_one_that_cannot_be_read(tvm, target, scorer, tmp_path):
    ms = tvm.s_tir.meta_schedule
    functions = {
        "argmax": hand.OPERATORS["argmax"],
        "dynamic": hand.varying,
        "plain": hand.no_block,
        "product": hand.fused,
    }
    module = tvm.IRModule(
        {name: make()["main"].with_attr("global_symbol", name) for name, make in functions.items()}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        database = ms.tune_tir(
            module,
            target,
            str(tmp_path),
            max_trials_global=8,
            max_trials_per_task=2,
            num_trials_per_iter=2,
            builder=local_builder(timeout=120),
            strategy=ms.search_strategy.EvolutionarySearch(
                population_size=32, init_min_unmeasured=2, genetic_num_iters=1
            ),
            cost_model=WorldModelCostModel(scorer),
        )
    found = {workload_key(record.workload.mod) for record in database.get_all_tuning_records()}
    assert len(found) == 3  # TVM finds no candidate for the dynamic one, whoever ranks


def test_cwm_tune_finds_schedules_of_what_writes_two_buffers(tvm, tmp_path):
    file, folder, out = tmp_path / "mine.py", tmp_path / "search", tmp_path / "out.json"
    file.write_text(
        "from tvm import te, topi\n"
        "def best(n):\n"
        "    x = te.placeholder((n, 64), name='x')\n"
        "    return [x, topi.argmax(x, axis=1)]\n"
    )
    command = ["tune", "--engine", "metaschedule", "--workload", f"{file}:best:16", "--trials", "2"]
    command += ["--population", "32", "--log", str(folder), "--json", str(out)]
    assert main(command) == 0
    assert 0 < orjson.loads(out.read_bytes())["best_latency"] < 1
    assert len(load_records(folder / "records.jsonl")) == 2


def test_one_module_without_a_design_space_costs_itself(tvm, target, tmp_path):
    engine = MetaScheduleEngine(tvm, target)
    tasks = [engine.task(hand.explicit_root()), engine.task(hand.fused())]
    with pytest.warns(UnreadWarning, match=r"C: TVM's search of it failed, .*; it stays as it is"):
        result = tune_network(engine, tasks, SMALL, tmp_path / "both")
    assert result.trials == (0, 2)
    with pytest.raises(WorkloadError, match="C: TVM cannot tune it"):
        tune_task(engine, tasks[0], SMALL, tmp_path / "one")


def onnx_network(path, nodes, dtype=TensorProto.FLOAT, shape=(4, 16)):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (4, 16))],
        [helper.make_tensor_value_info("y", dtype, shape)],
        [numpy_helper.from_array(np.array(1, np.int64), "axis")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, str(path))
    return path


def broken_build():
    def build(module, target, params):
        raise ValueError("no compiler here")

    return build


@pytest.mark.parametrize("option", ["--workload", "--network"])
def test_a_search_in_which_nothing_was_built_fails(option, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(builder, "_build_function", broken_build)
    network = onnx_network(tmp_path / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    what = "dense:8,16,16" if option == "--workload" else str(network)
    command = ["tune", "--engine", "metaschedule", option, what, "--trials", "3", "--round", "3"]
    command += ["--cost-model", "random", "--log", str(tmp_path / "log")]
    assert main(command) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"none of \d trials succeeded \(ValueError: no compiler here\)", said)


def test_a_network_with_a_scan_is_tuned_and_computes_the_same(tvm, tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("CumSum", ["r", "axis"], ["s"]),
        helper.make_node("ArgMax", ["s"], ["y"], axis=1, keepdims=0),
    ]
    network = onnx_network(tmp_path / "scan.onnx", nodes, TensorProto.INT64, (4,))
    library = tmp_path / "net.so"
    command = ["tune", "--engine", "metaschedule", "--trials", "4", "--round", "1"]
    command += ["--network", str(network), "--population", "32"]
    command += ["--log", str(tmp_path / "log"), "--export", str(library)]
    assert main(command) == 0
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    expected = np.cumsum(np.maximum(x, 0), axis=1).argmax(1)
    assert machine["main"](tvm.runtime.tensor(x)).numpy().tolist() == expected.tolist()


def test_what_tvm_cannot_compile_is_said_before_a_trial(tvm, target):
    relax = tvm.relax
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 16), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(relax.op.ccl.allreduce(x, "sum", True)))
        builder.emit_func_output(out)
    with pytest.raises(WorkloadError, match=r"net: TVM cannot compile it for .*, tuned or not"):
        check_network(tvm, "net", builder.get(), target)


def test_networks_are_lowered_for_gpus_too(tvm):
    from cwm_jax.tuning.metaschedule.networks import _lowering
    from cwm_jax.tuning.metaschedule.relax import relax_module
    from cwm_jax.workloads.networks import parse_network

    target = tvm.target.Target(
        {
            "kind": "cuda",
            "arch": "sm_80",
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 49152,
            "thread_warp_size": 32,
        }
    )
    module = relax_module(tvm, parse_network("mlp:1"), target)
    with target:
        lowered = tvm.transform.Sequential(_lowering(tvm, target))(module)
    kernels = [f for name, f in lowered.functions_items() if name.name_hint != "main"]
    assert kernels
    assert all("blockIdx.x" in kernel.script() for kernel in kernels)
