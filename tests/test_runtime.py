"""Loading a TVM of either kind, each in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cwm_jax.errors import TvmError
from cwm_jax.tvm_bridge import runtime

BUILD_AND_RUN = """
import numpy as np
from cwm_jax.tvm_bridge import use
tvm = use("ansor")
assert use("ansor") is tvm
from tvm import auto_scheduler, te
a = te.placeholder((8,), name="a")
b = te.compute((8,), lambda i: a[i] + 1)
function = tvm.build(te.create_schedule(b.op), [a, b], "llvm")
out = tvm.nd.array(np.zeros(8, "float32"))
function(tvm.nd.array(np.arange(8, dtype="float32")), out)
assert out.numpy().tolist() == list(range(1, 9))
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_ansor_builds_and_runs_with_a_fresh_cache(tmp_path):
    done = run_python(BUILD_AND_RUN, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    has_driver = run_python("import ctypes; ctypes.CDLL('libcuda.so.1')").returncode == 0
    assert has_driver or list(tmp_path.glob("cwm_jax/*/libcuda.so.1"))


def test_unwritable_cache_is_no_obstacle(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = run_python(BUILD_AND_RUN, XDG_CACHE_HOME=str(blocked))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("home", ["under a file", "missing"])
def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path, home):
    blocked = tmp_path / "file"
    blocked.write_text("")
    folder = blocked / "home" if home == "under a file" else tmp_path / "home"
    environment = {k: v for k, v in os.environ.items() if k != "TEST_DATA_ROOT_PATH"}
    # Programs are built by child processes, which import TVM anew.
    code = f"{BUILD_AND_RUN}\nimport subprocess, sys, os\n" + (
        "subprocess.run([sys.executable, '-c', 'import tvm.auto_scheduler'], check=True)\n"
        "assert os.environ['HOME'] == sys.argv[1]\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**environment, "HOME": str(folder), "XDG_CACHE_HOME": ""},
        cwd=work,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not list(work.iterdir())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "work"]


def test_a_working_directory_that_is_gone_is_said_so(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    done = run_python(f"""
import os
os.chdir({str(gone)!r})
os.rmdir({str(gone)!r})
from cwm_jax.errors import TvmError
from cwm_jax.tvm_bridge import use
try:
    use("ansor")
except TvmError as error:
    print(error)
""")
    assert "the working directory is gone" in done.stdout, done.stderr


@pytest.mark.parametrize("platforms", ["cuda", "nonsense", "tpu"])
def test_platforms_that_jax_does_not_find_are_said(platforms, measured_log):
    if platforms != "nonsense" and Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, "-m", "cwm_jax.cli.main", "eval", str(measured_log)],
        env={**os.environ, "JAX_PLATFORMS": platforms},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert re.fullmatch(
        f"cwm eval: JAX finds no device .* JAX_PLATFORMS is '{platforms}', unset it.*\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    ("first", "second"), [("ansor", "metaschedule"), ("metaschedule", "ansor")]
)
def test_the_other_tvm_is_refused_in_words(first, second):
    done = run_python(f"""
from cwm_jax.tvm_bridge import use
from cwm_jax.errors import TvmError
tvm = use({first!r})
try:
    use({second!r})
except TvmError as error:
    print(error)
""")
    assert done.returncode == 0, done.stderr
    assert "is loaded in this process" in done.stdout
    assert f"use {second!r} in a fresh one" in done.stdout


def test_metaschedule_is_the_wheel_from_pypi():
    done = run_python("""
from cwm_jax.tvm_bridge import use
tvm = use("metaschedule")
from tvm.s_tir import meta_schedule
print(tvm.__version__, meta_schedule.TuneContext.__name__)
""")
    assert done.stdout.split() == ["0.27.0.post1", "TuneContext"], done.stderr


def test_a_users_own_tvm_comes_first(tmp_path):
    own = tmp_path / "tvm" / "auto_scheduler"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("")
    (own.parent / "__init__.py").write_text("__version__ = 'my own'\n")
    done = run_python(
        "from cwm_jax.tvm_bridge import use; print(use('ansor').__version__)",
        PYTHONPATH=str(tmp_path),
    )
    assert done.stdout == "my own\n", done.stderr


def test_a_compiler_is_needed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(TvmError, match="C\\+\\+ compiler is needed"):
        runtime.driver_stand_in()


def test_the_stand_in_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = runtime.driver_stand_in()
    written = path.stat().st_mtime_ns
    assert runtime.driver_stand_in() == path
    assert path.stat().st_mtime_ns == written
    assert [entry.name for entry in Path(path).parent.iterdir()] == ["libcuda.so.1"]


def test_a_child_of_an_ansor_process_can_use_metaschedule():
    done = run_python("""
import subprocess, sys
from cwm_jax.tvm_bridge import use
use("ansor")
code = "from cwm_jax.tvm_bridge import use; print(use('metaschedule').__version__)"
subprocess.run([sys.executable, "-c", code], check=True)
""")
    assert done.stdout == "0.27.0.post1\n", done.stderr


def test_builders_of_a_users_tvm_find_it_too(tmp_path):
    (tmp_path / "tvm" / "auto_scheduler").mkdir(parents=True)
    for folder in ("tvm", "tvm/auto_scheduler"):
        (tmp_path / folder / "__init__.py").write_text("__version__ = 'my own'\n")
    done = run_python(f"""
import subprocess, sys
sys.path.append({str(tmp_path)!r})
from cwm_jax.tvm_bridge import use
use("ansor")
subprocess.run([sys.executable, "-c", "import tvm; print(tvm.__version__)"], check=True)
""")
    assert done.stdout == "my own\n", done.stderr
