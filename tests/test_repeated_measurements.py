"""Commands are timed in turn."""

import subprocess
import sys

import pytest

from cwm_jax.bench.repeated_measurements import speedup, time_in_turn


def test_each_command_runs_once_a_round_and_tells_its_median():
    told = []
    found = time_in_turn(
        {
            name: [sys.executable, "-c", f"print('noise'); print('{{\"seconds\": {seconds}}}')"]
            for name, seconds in {"a": [3.0, 1.0, 2.0], "b": [5.0]}.items()
        },
        2,
        lambda name, seconds: told.append((name, seconds)),
    )
    assert found == {"a": [2.0, 2.0], "b": [5.0, 5.0]}
    assert told == [("a", 2.0), ("b", 5.0)] * 2


def test_a_command_that_fails_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        time_in_turn({"a": [sys.executable, "-c", "raise SystemExit(3)"]}, 1)


def test_a_speedup_is_of_medians():
    found = speedup({"a": [1.0, 2.0, 9.0], "b": [3.0, 4.0, 4.5]}, "a", "b")
    assert found == {"speedup": 2.0, "pairs": [3.0, 2.0, 0.5]}
