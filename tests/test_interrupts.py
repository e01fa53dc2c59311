"""Ctrl-C, `kill` and a closed terminal: wherever they find a command, it ends in order.

Each test runs a process of its own, which interrupts itself at the place in question.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cwm_jax import load_records
from cwm_jax.cli.main import main
from cwm_jax.records.ansor_log import append_records

ROOT = Path(__file__).parents[1]
CWM = str(Path(sys.executable).parent / "cwm")
LOG = str(ROOT / "tests" / "data" / "measured.jsonl.gz")

BEGIN = """
import ctypes, gc, os, signal, sys, threading, time, weakref
from pathlib import Path
from cwm_jax import interrupts, processes

def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)
    time.sleep(0.2)  # as a terminal's, it comes at any time: the handler runs within this call

def command():
"""
END = """
sys.exit(interrupts.end_in_order("cwm test", command, whole_process=True))
"""


def script(body: str) -> list[str]:
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return [sys.executable, "-c", BEGIN + indented + END]


def run(command: list[str], **options) -> "subprocess.CompletedProcess[str]":
    # A shell that runs pytest in the background has it ignore Ctrl-C.
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=options.pop("cwd", ROOT),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


PLACES = {
    "plain code": "interrupt()\ntime.sleep(60)",
    "a callback of the garbage collector": """
gc.callbacks.append(lambda phase, _: phase == "start" and gc.isenabled() and interrupt())
gc.collect()
gc.disable()
time.sleep(60)""",
    "a finalizer": """
class Thing:
    def __del__(self):
        interrupt()
del [Thing()][0]
time.sleep(60)""",
    "a callback of a weak reference": """
class Thing:
    pass
thing = Thing()
kept = weakref.ref(thing, lambda _: interrupt())
del thing
time.sleep(60)""",
    "a callback of C code": """
call = ctypes.CFUNCTYPE(None)(interrupt)
call()
time.sleep(60)""",
    "code that catches everything": """
try:
    interrupt()
except BaseException:
    pass
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass""",
    "code that makes another error of it": """
try:
    interrupt()
except KeyboardInterrupt:
    raise RuntimeError("Stack trace: 0: TVMFuncCall")""",
    "C code that goes on": """
threading.Timer(0.2, interrupt).start()
ctypes.CDLL(None).sleep(60)""",
    "a lock": """
threading.Timer(0.2, interrupt).start()
threading.Event().wait()""",
    "another thread": """
threading.Thread(target=lambda: (interrupt(), 1 / 0)).start()
time.sleep(60)""",
    "a block that looks by itself": """
asked = []
with interrupts.held(lambda: asked.append(1)):
    interrupt()
    assert asked
    raise KeyboardInterrupt""",
}


@pytest.mark.parametrize("body", PLACES.values(), ids=PLACES)
def test_an_interrupt_gets_through_from_anywhere(body):
    done = run(script(body))
    assert done.stderr == "cwm test: interrupted\n"
    assert done.returncode == 2


def test_children_end_too_and_print_nothing():
    grandchild = "import subprocess; subprocess.run(['sleep', '60'])"
    body = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", {grandchild!r}])
print(child.pid, flush=True)
while not (found := list(processes.descendants(child.pid))):
    time.sleep(0.05)
print(*found, flush=True)
os.killpg(0, signal.SIGINT)
time.sleep(60)"""
    done = run(script(body))
    assert done.stderr == "cwm test: interrupted\n"
    started = [int(pid) for pid in done.stdout.split()]
    assert len(started) == 2
    deadline = time.monotonic() + 10
    while any(map(runs, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, started))


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_end_in_order_too(number, code):
    done = run(script(f"interrupt({int(number)})\ntime.sleep(60)"))
    assert done.stderr == f"cwm test: stopped by {number.name}\n"
    assert done.returncode == code


def test_a_second_one_ends_at_once_two_in_a_moment_are_one():
    twice = "with interrupts.writing():\n    interrupt()\n    {}\n    interrupt()\n    {}"
    done = run(script(twice.format("time.sleep(0.8)", "time.sleep(60)")))
    assert done.returncode == 130
    assert done.stderr == "cwm test: interrupted\n"
    done = run(script(twice.format("", "print('written')")))
    assert done.returncode == 2
    assert done.stdout == "written\n"


def test_what_is_kept_is_said_and_what_is_left_is_tidied(tmp_path):
    litter = tmp_path / "litter"
    body = f"""
litter = Path({str(litter)!r})
litter.write_text("")
with interrupts.note_kept(lambda: "all is kept"), interrupts.tidied(litter.unlink):
    interrupt()
    {{}}"""
    for way in ("time.sleep(60)", "pass"):
        done = run(script(body.format(way)))
        assert done.stderr == "cwm test: interrupted; all is kept\n"
        assert not litter.exists()


def test_a_forked_child_is_no_business_of_its_parent():
    body = """
if (child := os.fork()) == 0:
    time.sleep(60)
time.sleep(0.3)
os.kill(child, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
time.sleep(0.3)
print("goes on")
return 0"""
    done = run(script(body))
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


def test_an_ignored_signal_stays_ignored():
    """As `nohup` and shells have it for what runs in the background."""
    code = "import signal\nfor number in (signal.SIGINT, signal.SIGHUP):\n"
    code += "    signal.signal(number, signal.SIG_IGN)\n"
    ask = "interrupt(signal.SIGINT)\ninterrupt(signal.SIGHUP)\nprint('goes on')\nreturn 0"
    command = script(ask)
    command[-1] = code + command[-1]
    done = run(command)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


def test_python_callers_get_their_handlers_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    mask, hook = signal.pthread_sigmask(signal.SIG_BLOCK, []), sys.unraisablehook
    assert main(["score", "none", "--out", "/proc/none"]) == 2
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    assert sys.unraisablehook == hook


IN_AN_IMPORT = """
import os, signal, sys, time
class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
sys.meta_path.insert(0, Finder())
sys.argv = ["cwm", "eval", {log!r}, "--include-training"]
from cwm_jax.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["cwm_jax.errors", "argparse", "jax", "jax.numpy", "orbax"])
def test_imports_end_without_a_traceback(module):
    done = run([sys.executable, "-c", IN_AN_IMPORT.format(module=module, log=LOG)])
    assert done.returncode == 2
    assert done.stderr.startswith("cwm")
    assert done.stderr.endswith(": interrupted\n")
    assert len(done.stderr.splitlines()) == 1


IN_JAX = """
import gc, os, signal, sys, time
def places():
    frame = sys._getframe()
    while frame := frame.f_back:
        yield frame.f_code.co_filename
def collect(phase, information):
    names = " ".join(places())
    if "training/loop.py" in names and "importlib" not in names:
        gc.callbacks.remove(collect)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
gc.callbacks.append(collect)
sys.argv = ["cwm", "train", {log!r}, "--hardware", "cpu-x86-2core", "--out", {place!r}]
from cwm_jax.cli.main import main
sys.exit(main())
"""


def test_training_is_interrupted_while_garbage_is_collected(tmp_path):
    place = tmp_path / "checkpoint"
    text = IN_JAX.format(place=str(place), log=LOG)
    done = run([sys.executable, "-c", text])
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cwm train: interrupted; no snapshot was due yet")
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("delay", [0.4, 0.8, 1.6, 3.2])
def test_the_installed_command_ends_within_seconds(delay):
    process = subprocess.Popen(
        # The card of the log's records, or it would warn.
        [CWM, "eval", LOG, "--include-training", "--hardware", "cpu-x86-1core"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(delay)
    over = process.poll() is not None
    if not over:
        os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    if not over and process.returncode != 0:  # it may have been about to end
        assert process.returncode == 2
        assert errors == "cwm eval: interrupted\n"


HEAVY = {"jax", "flax", "orbax", "tvm", "numpy", "scipy", "rich", "orjson", "optax", "grain"}
IMPORTED = """
import sys
sys.argv = ["cwm", *{arguments!r}]
try:
    from cwm_jax.cli.main import main
    main() if {arguments!r} else None
finally:
    print("modules", *{{name.partition(".")[0] for name in sys.modules}})
"""


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ([], set()),
        (["--version"], {"numpy", "rich", "orjson", "scipy"}),
        (["--help"], {"numpy", "rich", "orjson", "scipy"}),
        (["tune", "--help"], {"numpy", "rich", "orjson", "scipy"}),
        (["train", "--no-such-option"], {"numpy", "rich", "orjson", "scipy"}),
        (["score", "none", "--out", "/proc/none"], set(HEAVY) - {"tvm", "orbax"}),
    ],
)
def test_what_needs_no_model_imports_none(arguments, allowed):
    done = run([sys.executable, "-c", IMPORTED.format(arguments=arguments)])
    modules = set(done.stdout.splitlines()[-1].split())
    assert "cwm_jax" in modules
    assert not modules & (HEAVY - allowed)


def test_nobody_reads_on(tmp_path, measured_log):
    """`| head`, a terminal one column wide, and no encoding worth the name."""
    first, *others = load_records(measured_log)
    log, found = tmp_path / "log.jsonl", tmp_path / "found.json"
    append_records(log, [first, *(r for r in others if r.workload_key == first.workload_key)])
    evaluate = [CWM, "eval", str(log), "--include-training", "--json", str(found)]
    narrow = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "1"}
    shell = ["bash", "-c", 'set -o pipefail; "$@" | head -1', "-", *evaluate]
    done = run(shell, env=narrow)
    assert done.returncode == 0
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines()), done.stderr
    assert done.stdout.startswith("read ")
    assert found.read_text().endswith("}\n")  # the work is done all the same


@pytest.mark.parametrize(
    ("redirected", "code", "says"),
    [
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 1, "cwm: what is printed cannot be written (No space left on device)\n"),
        ("| true", 0, ""),
    ],
)
def test_help_that_is_not_printed(redirected, code, says):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = run(["bash", "-c", f"set -o pipefail; {CWM} --help {redirected}"], env=environment)
    assert (done.returncode, done.stderr) == (code, says)
