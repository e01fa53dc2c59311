"""Measuring through a real RPC tracker, with a device that goes away and comes back."""

import dataclasses
import threading

import pytest

from cwm_jax import load_records
from cwm_jax.errors import TargetError
from cwm_jax.tuning.ansor.engine import AnsorEngine
from cwm_jax.tuning.ansor.targets import host_target
from cwm_jax.tuning.engine import RoundResult
from cwm_jax.tuning.loop import tune_task
from cwm_jax.tuning.machine import Tracker, parse_tracker
from cwm_jax.tuning.measurement import TuningConfig
from cwm_jax.workloads.parse import parse_workload


def engine_and_task(tvm):
    engine = AnsorEngine(tvm, host_target(tvm))
    return engine, engine.tasks(parse_workload("matmul:64,64,64"))[0]


@pytest.mark.parametrize("lost", [False, True])
def test_a_lost_device_costs_its_round_only(lost, tvm, device, tmp_path):
    config = TuningConfig(
        trials=4,
        round_size=2,
        cost_model="random",
        run_timeout=4,
        min_repeat_ms=5,
        tracker=device.address,
    )
    timers: list[threading.Timer] = []

    def after(done: RoundResult) -> None:
        if lost and done.trials == 2:
            device.lose()
            timers.append(threading.Timer(6, device.find))
            timers[0].start()

    log = tmp_path / "log.jsonl"
    result = tune_task(*engine_and_task(tvm), config, log, report=after)
    assert len(timers) == lost
    assert len(result.latencies) == 4
    assert all(record.valid for record in load_records(log))


@pytest.mark.parametrize(
    ("key", "running", "says"),
    [("nobody", True, "no device of this key; it has cwm"), ("cwm", False, "not answer")],
)
def test_no_device_is_an_error_in_words(key, running, says, tvm, device, tmp_path):
    if not running:
        device.end_tracker()
    address = dataclasses.replace(device.address, key=key)
    config = TuningConfig(trials=2, cost_model="random", run_timeout=1, tracker=address)
    with pytest.raises(TargetError, match=says):
        tune_task(*engine_and_task(tvm), config, tmp_path / "log.jsonl")


@pytest.mark.parametrize("text", ["", "host", "host:9190", ":9190:key", "host:x:key", "host:9190:"])
def test_trackers_that_make_no_sense(text):
    with pytest.raises(TargetError, match="HOST:PORT:KEY"):
        parse_tracker(text)


def test_trackers_are_parsed():
    assert parse_tracker("10.0.0.2:9190:rasp4b") == Tracker("10.0.0.2", 9190, "rasp4b")
    assert parse_tracker("[::1]:9190:k").host == "::1"
