"""MetaSchedule on a device behind a real RPC tracker, which goes away and comes back."""

import dataclasses
import threading

import orjson
import pytest

from cwm_jax.cli.main import main
from cwm_jax.errors import TargetError
from cwm_jax.records.logs import load_records
from cwm_jax.tuning.engine import RoundResult
from cwm_jax.tuning.loop import tune_task
from cwm_jax.tuning.measurement import TuningConfig
from cwm_jax.tuning.metaschedule import measure as remote
from cwm_jax.tuning.metaschedule.engine import MetaScheduleEngine
from cwm_jax.tuning.metaschedule.targets import resolve_target
from cwm_jax.workloads.parse import parse_workload

pytestmark = pytest.mark.long


def small_search(device, **settings) -> TuningConfig:
    return TuningConfig(
        trials=4,
        round_size=2,
        cost_model="random",
        min_repeat_ms=5,
        population=32,
        tracker=device.address,
        **settings,
    )


@pytest.mark.parametrize("lost", [False, True])
def test_a_lost_device_costs_time_only(lost, tvm, target, device, tmp_path):
    timers: list[threading.Timer] = []

    def after(done: RoundResult) -> None:
        if lost and done.trials == 2:
            device.lose()
            timers.append(threading.Timer(30, device.find))
            timers[0].start()

    engine = MetaScheduleEngine(tvm, target)
    (task,) = engine.tasks(parse_workload("matmul:64,64,64"))
    config = small_search(device, build_timeout=3, run_timeout=3)
    result = tune_task(engine, task, config, tmp_path / "search", report=after)
    assert len(timers) == lost
    assert result.first_error == ""
    records = load_records(tmp_path / "search" / "records.jsonl")
    assert len(records) == len(result.latencies) == 4
    assert all(record.valid for record in records)


def test_a_device_that_stays_away_ends_the_search(tvm, target, device, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 2.0)

    def after(done: RoundResult) -> None:
        device.lose()

    engine = MetaScheduleEngine(tvm, target)
    (task,) = engine.tasks(parse_workload("matmul:64,64,64"))
    config = small_search(device, build_timeout=4, run_timeout=4)
    with pytest.raises(TargetError, match="no device was free"):
        tune_task(engine, task, config, tmp_path / "search", report=after)
    assert len(load_records(tmp_path / "search" / "records.jsonl")) == 2


def test_a_network_is_tuned_and_timed_there(device, tmp_path):
    out, library = tmp_path / "out.json", tmp_path / "mlp.tar"
    arguments = ["tune", "--engine", "metaschedule", "--network", "mlp:1", "--trials", "4"]
    arguments += ["--round", "1", "--cost-model", "random", "--population", "32"]
    arguments += ["--rpc", str(device.address), "--export", str(library), "--json", str(out)]
    assert main([*arguments, "--log", str(tmp_path / "search")]) == 0
    assert 0 < orjson.loads(out.read_bytes())["latency"] < 1
    assert library.stat().st_size > 0


@pytest.mark.parametrize(
    ("key", "running", "says"),
    [("nobody", True, "no device of this key; it has cwm"), ("cwm", False, "not answer")],
)
def test_no_device_is_an_error_in_words(key, running, says, tvm, target, device, tmp_path):
    if not running:
        device.end_tracker()
    address = dataclasses.replace(device.address, key=key)
    config = dataclasses.replace(small_search(device), tracker=address)
    engine = MetaScheduleEngine(tvm, target)
    (task,) = engine.tasks(parse_workload("matmul:64,64,64"))
    with pytest.raises(TargetError, match=says):
        tune_task(engine, task, config, tmp_path / "search")


def test_targets_of_other_machines(tvm):
    board = '{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "num-cores": 4}'
    assert int(resolve_target(tvm, board, remote=True).attrs["num-cores"]) == 4
    with pytest.raises(TargetError, match="say the num-cores"):
        resolve_target(tvm, board.replace(', "num-cores": 4', ""), remote=True)
    with pytest.raises(TargetError, match="does not know 'cortex-a999'"):
        resolve_target(tvm, board.replace("a72", "a999"), remote=True)
