"""Training, judging and scoring run on a machine that has no TVM."""

import subprocess
import sys

import pytest

WITHOUT_TVM = """
import sys


class Unimportable:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"bitblas", "tvm", "tvm_ffi"}:
            raise ImportError(f"{name} must not be imported")


sys.meta_path.insert(0, Unimportable())
try:
    import tvm
except ImportError:
    pass
else:
    sys.exit("TVM can still be imported")
"""
COMMANDS = """
from cwm_jax.cli.main import main

log, folder = sys.argv[1:]
checkpoint = f"{folder}/checkpoint"
small = ["--hardware", "cpu-x86-2core", "--epochs", "1"]
judged = ["--checkpoint", checkpoint, "--include-training"]
for command in (
    ["train", log, *small, "--out", checkpoint],
    ["eval", log, *judged],
    ["score", log, "--checkpoint", checkpoint, "--out", f"{folder}/scores.jsonl"],
):
    if code := main(command):
        sys.exit(f"{command[0]} ends with {code}")
"""
API = """
import cwm_jax

records, graphs = cwm_jax.load_records(sys.argv[1])[:8], cwm_jax.load_graphs(sys.argv[1])
assert len(cwm_jax.Scorer.load("cpu-x86-2core").score(records, graphs)) == 8
"""


@pytest.mark.parametrize("code", [COMMANDS, API], ids=["commands", "api"])
def test_no_tvm_is_needed(code, tmp_path, measured_log):
    arguments = [str(measured_log), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TVM + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
