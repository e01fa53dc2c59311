"""Training that survives a kill, and that is the same on one device, eight, and two hosts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.small_training import run

from cwm_jax.errors import CheckpointError
from cwm_jax.training.snapshots import Snapshots

SCRIPT = Path(__file__).parent / "support" / "small_training.py"


@pytest.fixture(scope="module")
def unbroken():
    return run(None)


def start(*arguments: object, flags: str = "") -> subprocess.Popen:
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen, out: Path) -> dict:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(out.read_text())


def kill_after(snapshots: Path, step: int, out: Path) -> None:
    """Kills a run as soon as it has a snapshot of that many batches."""
    process = start(out, "--snapshots", snapshots)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if any(path.name >= f"{step:08}" for path in snapshots.glob("[0-9]*")):
            break
        time.sleep(0.005)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_run_ends_in_the_same_parameters(tmp_path, unbroken):
    snapshots, out = tmp_path / "snapshots", tmp_path / "out.json"
    for step in (1, 4):  # killed twice, in the middle of an epoch and further on
        kill_after(snapshots, step, out)
    assert not out.exists()
    # The kill may fall between the new one's renaming and the old one's removal.
    latest = max(path for path in snapshots.iterdir() if path.name.isdigit())
    assert json.loads((latest / "snapshot.json").read_text())["batch"] > 0
    found = run(Snapshots(snapshots, seconds=1e9))
    assert found == unbroken


def test_snapshots_of_another_run_are_refused_in_words(tmp_path):
    snapshots = Snapshots(tmp_path, seconds=0)
    run(snapshots, epochs=1)
    with pytest.raises(CheckpointError, match="other records or settings"):
        run(snapshots, epochs=1, seed=1)
    (latest,) = [path for path in tmp_path.iterdir() if path.name.isdigit()]
    (latest / "snapshot.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        run(snapshots, epochs=1)
    snapshots.clear()
    assert not tmp_path.exists()


def test_snapshots_that_cannot_be_written_are_an_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(CheckpointError, match="cannot be written"):
        run(Snapshots(blocked, seconds=0), epochs=1)
    assert blocked.read_text() == "not a folder"


def test_eight_devices_train_as_one_does(tmp_path, unbroken):
    out = tmp_path / "out.json"
    found = result(start(out, flags="--xla_force_host_platform_device_count=8"), out)
    assert found["devices"] == 8
    np.testing.assert_allclose(found["losses"], unbroken["losses"], rtol=1e-4)


def test_two_hosts_train_as_one_does(tmp_path, unbroken):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    outs = [tmp_path / f"out{process}.json" for process in range(2)]
    hosts = [start(out, "--coordinator", address, 2, at) for at, out in enumerate(outs)]
    first, second = (result(host, out) for host, out in zip(hosts, outs, strict=True))
    assert first == second
    assert first["devices"] == 2
    np.testing.assert_allclose(first["losses"], unbroken["losses"], rtol=1e-4)


def test_bfloat16_learns_nearly_as_well(unbroken):
    found = run(None, precision="bfloat16")
    assert found["parameters"] != unbroken["parameters"]
    np.testing.assert_allclose(found["losses"], unbroken["losses"], rtol=0.05)
