"""Which targets are one device, and that records of several are never compared."""

import dataclasses
import json

import numpy as np
import pytest

from cwm_jax.cli.main import main
from cwm_jax.features.hardware import load_hardware
from cwm_jax.records.ansor_log import append_records
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Devices, device_of
from cwm_jax.training.dataset import build_dataset
from cwm_jax.training.streaming import RowFile, stream_dataset

CARD = load_hardware("cpu-x86-2core")
GPU = (-1, 16, 64, 49152, 2147483647, 1024, 8, 32)
CPU = (2, 64, 64, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("llvm -mcpu=znver3 -num-cores=2", "llvm -num-cores=2 -mcpu=znver3 -keys=cpu", True),
        ("llvm -mcpu=znver3", "llvm -mcpu=znver3 -host=llvm -libs=mkl", True),
        ("llvm -mcpu znver3", '{"kind": "llvm", "mcpu": "znver3", "tag": "", "host": {}}', True),
        ("llvm -mattr=+avx2,+fma", '{"kind": "llvm", "mattr": ["+fma", "+avx2"]}', True),
        ("llvm -mtriple=x86_64-linux-gnu", "llvm -mtriple=x86_64-pc-linux", True),
        ("cuda -model=unknown -thread_warp_size=32", "cuda -arch=sm_70", True),
        ("llvm", "llvm -num-cores=4", True),
        ("", "cuda", True),
        ("null", "llvm -mcpu=znver3", True),
        ("llvm", "cuda", False),
        ("cuda -arch=sm_70", "cuda -arch=sm_80", False),
        ("llvm -num-cores=2", "llvm -num-cores=4", False),
        ("llvm -mcpu=znver3", "llvm -mcpu=znver4", False),
        ("llvm -mattr=+avx2", "llvm -mattr=+avx512f", False),
        ("llvm -mtriple=aarch64-linux-gnu", "llvm -mtriple=x86_64-linux-gnu", False),
        ("opencl -device=mali -model=a", "opencl -device=mali -model=b", False),
    ],
)
def test_targets_that_are_one_device(one, other, same):
    devices = Devices()
    positions = [devices.add(device_of(target)) for target in (one, other, one)]
    assert positions == [0, 0 if same else 1, 0]


def test_cores_are_those_of_the_hardware_parameters():
    one, other = (device_of("llvm -num-cores=2", (cores, 64, 64)) for cores in (1, 2))
    assert one.merged(other) is None
    assert other.merged(device_of("llvm -num-cores=2")) == other
    a100, k80 = (device_of("cuda", (-1, 16, 64, memory, 0, 1024, 8, 32)) for memory in (1, 2))
    assert a100.merged(k80) is None


@pytest.fixture(scope="module")
def mixed(measured_log, tmp_path_factory):
    """Lines of a CPU, and of a GPU and of more cores on which the order is the other way round."""
    records = load_records(measured_log)
    found = []
    for at, record in enumerate(records):
        found.append(record)
        if at % 3:
            target, parameters = [("cuda -arch=sm_70", GPU), (record.target, CPU)][at % 2]
            task = dataclasses.replace(record.task, hardware_parameters=parameters)
            costs = (1e-9 / record.latency,)
            found.append(dataclasses.replace(record, target=target, task=task, costs=costs))
    log = tmp_path_factory.mktemp("mixed") / "log.jsonl"
    append_records(log, found)
    return log


def test_each_device_has_best_latencies_of_its_own(mixed, measured_log, tmp_path):
    alone = build_dataset(load_records(measured_log), {}, CARD)
    records = load_records(mixed)
    together = build_dataset(records, {}, CARD)
    streamed = stream_dataset(records, {}, CARD, RowFile(tmp_path / "rows"))
    assert list(together) == list(streamed)
    for key, expected in alone.items():
        named = {name: found for name, found in together.items() if found.key == key}
        assert len(named) == 3
        own = named[f"{key} on llvm cores=1 mcpu=icelake-server"]
        np.testing.assert_array_equal(own.throughput, expected.throughput)
        for name, found in named.items():
            assert found.throughput.max() == streamed[name].throughput.max() == 1


def test_eval_ranks_each_device_by_itself_and_says_that_there_are_others(
    mixed, measured_log, tmp_path, capsys
):
    (tmp_path / "log.programs.jsonl.gz").write_bytes(
        measured_log.with_name("measured.programs.jsonl.gz").read_bytes()
    )
    log = tmp_path / "log.jsonl"
    log.write_bytes(mixed.read_bytes())
    results = []
    for path in (measured_log, log):
        out, report = tmp_path / "out.json", tmp_path / "report"
        arguments = ["eval", str(path), "--include-training", "--json", str(out)]
        assert main([*arguments, *(["--report", str(report)] if path == log else [])]) == 0
        results.append(json.loads(out.read_text()))
        out.unlink()
    told = " ".join(capsys.readouterr().err.split())
    assert "'cuda -arch=sm_70' is a gpu" in told
    for key, expected in results[0]["workloads"].items():
        own = results[1]["workloads"][f"{key} on llvm cores=1 mcpu=icelake-server"]
        assert own == pytest.approx(expected)
    overall = results[1]["devices"][" on llvm cores=1 mcpu=icelake-server"]
    assert overall == pytest.approx(results[0]["overall"])
    assert len(results[1]["devices"]) == 3


def test_train_splits_by_workload_whatever_the_device_and_warns(mixed, tmp_path, capsys):
    command = ["train", str(mixed), "--hardware", "cpu-x86-2core", "--epochs", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "records to train on are said to be of cpu-x86-2core, a cpu, but" in told
    assert "a cpu of 1 cores" in told
    split = json.loads((tmp_path / "out" / "card.json").read_text())["split"]
    assert len(split["train"]) + len(split["test"]) == 8
    assert not {*split["train"]} & {*split["test"]}
