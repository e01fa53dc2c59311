"""Where commands are asked to write: what cannot be written is refused before the work."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from cwm_jax.cli.main import main
from cwm_jax.errors import CwmError
from cwm_jax.files import Output, check_outputs, locked_file, locked_folder, write_atomically
from cwm_jax.model.checkpoint import save_arrays

ROOT = Path(__file__).parents[1]
LOG = str(ROOT / "tests" / "data" / "measured.jsonl.gz")
TUNE = ["tune", "--workload", "matmul:8,8,8"]
RELAX = ["tune", "--engine", "metaschedule"]
TRAIN = ["train", LOG, "--hardware", "cpu-x86-2core"]
FILES = [
    ([*TUNE, "--log"]),
    ([*TUNE, "--json"]),
    (["tune", "--network", "mobilenet-v2", "--log"]),
    ([*RELAX, "--workload", "matmul:8,8,8", "--json"]),
    (["collect", "--out", "corpus", "--json"]),
    ([*TRAIN, "--out", "checkpoint", "--json"]),
    (["eval", LOG, "--json"]),
    (["score", LOG, "--out"]),
    (["score", LOG, "--out", "scores", "--json"]),
    (["bench", "search", "--out", "bench", "--json"]),
    (["bench", "throughput", "--json"]),
    (["info", "--json"]),
]
FOLDERS = [
    ([*RELAX, "--workload", "matmul:8,8,8", "--log"]),
    ([*RELAX, "--network", "mobilenet-v2", "--log"]),
    (["collect", "--out"]),
    ([*TRAIN, "--out"]),
    ([*TRAIN, "--out", "checkpoint", "--tensorboard"]),
    ([*TRAIN, "--out", "checkpoint", "--stream"]),
    (["eval", LOG, "--report"]),
    (["score", LOG, "--ray", "1", "--out"]),
    (["bench", "search", "--out"]),
]
COMMANDS = [(command, "a-folder") for command in FILES] + [
    (command, "a-file") for command in FOLDERS
]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["score", LOG, "--out"], "notes.txt"),
        (["score", LOG, "--out", "scores", "--json"], "notes.txt"),
        (["eval", LOG, "--json"], "notes.txt"),
        (["info", "--json"], "notes.txt"),
        (["eval", LOG, "--report"], "folder/report.md"),
        ([*TRAIN, "--out"], "folder/notes.txt"),
        (["tune", "--network", "mobilenet-v2", "--export"], "net.so"),
        (["import", "work", "--out"], "notes.txt"),
        (["import", "work", "--out"], "log.programs.jsonl"),
    ],
)
def test_what_a_command_did_not_write_is_not_replaced(command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("my own notes")
    given = {"folder": "folder", "log.programs.jsonl": "log.jsonl"}
    asked = given.get(path.parts[0], name)
    told = " ".join(refused([*command, asked], capsys).split())
    assert "name another" in told or "name a new folder" in told
    assert path.read_text() == "my own notes"
    assert [str(found) for found in tmp_path.rglob("*") if found.is_file()] == [
        str(tmp_path / name)
    ]


def test_a_checkpoint_with_files_of_its_owner_is_not_replaced(tmp_path, capsys):
    out = tmp_path / "checkpoint"
    out.mkdir()
    (out / "card.json").write_text("{}")
    (out / "notes.txt").write_text("my own notes")
    assert "notes.txt beside a checkpoint" in refused([*TRAIN, "--out", str(out)], capsys)
    assert names(out) == ["card.json", "notes.txt"]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def refused(arguments, capsys) -> str:
    """Returns what a command says that refuses its arguments in one sentence."""
    assert main(arguments) == 2, arguments
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    return error


@pytest.mark.parametrize(
    ("command", "wrong_kind"), COMMANDS, ids=[" ".join(c[:1] + c[-1:]) for c, _ in COMMANDS]
)
def test_what_cannot_be_written_is_refused_before_the_work(
    command, wrong_kind, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("precious")
    Path("a-folder").mkdir()
    Path("link").symlink_to("/proc/none/further")
    faults = {
        wrong_kind: f"expected a {'file' if wrong_kind == 'a-folder' else 'folder'}",
        "a-file/further": "a-file is no folder",
        "/dev/null/further": "/dev/null is no folder",
        "/proc/none/further": "cannot be written",
        "link": "cannot be written",
        "n" * 250: "more than",
        "a" * 300: "too long",
        "null\0byte": "null byte",
        "": "expected the name",
    }
    for place, says in faults.items():
        error = refused([*command, place], capsys)
        assert says in error, place
        assert command[-1] in error
    assert Path("a-file").read_text() == "precious"
    assert names(Path()) == ["a-file", "a-folder", "link"]
    assert not names(Path("a-folder"))


def test_no_output_overwrites_an_input_or_another(tmp_path, monkeypatch, capsys, measured_log):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log.jsonl.gz"
    log.write_bytes(measured_log.read_bytes())
    for command in (["score", str(log), "--out"], ["eval", str(log), "--json"]):
        assert "read by the same command" in refused([*command, str(log)], capsys)
    assert "what --out names" in refused(["score", LOG, "--out", "a", "--json", "./a"], capsys)
    assert log.read_bytes() == measured_log.read_bytes()


def test_train_replaces_a_checkpoint_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").write_text("precious")
    for place in ("thesis", ".", "thesis/.."):
        assert "would be lost" in refused([*TRAIN, "--out", place], capsys)
    assert "cannot be replaced" in refused([*TRAIN, "--out", "/"], capsys)
    assert Path("thesis/chapter.txt").read_text() == "precious"


AS_NOBODY = """
import os, sys
from pathlib import Path
from cwm_jax.files import Output, check_outputs
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    check_outputs(Output("--json", Path(sys.argv[1])))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_permissions_count():
    with tempfile.TemporaryDirectory() as parent:  # one that others than its owner may enter
        Path(parent).chmod(0o755)
        (Path(parent) / "closed").mkdir(mode=0o555)
        place = Path(parent) / "closed" / "new" / "file.json"
        script = [sys.executable, "-c", AS_NOBODY, str(place)]
        done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == f"CwmError --json {place}: cannot be written (Permission denied)"


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path):
    (tmp_path / "there").write_text('{"precious": 1}')
    (tmp_path / "folder").mkdir()
    check_outputs(
        Output("--log", tmp_path / "new" / "folders" / "log.jsonl"),
        Output("--json", tmp_path / "there"),
        Output("--out", tmp_path / "folder", folder=True),
        Output("--report", tmp_path / "none", folder=True),
        Output("--more", Path("/dev/stdout")),
        Output("--more", Path("/dev/null")),
        Output("--nothing", None),
    )
    assert (tmp_path / "there").read_text() == '{"precious": 1}'
    assert names(tmp_path) == ["folder", "there"]
    assert not names(tmp_path / "folder")


def test_special_files_and_links_are_written_to_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", b"text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"text"


def test_a_full_disk_is_one_sentence_and_code_1(tmp_path, capsys):
    arguments = ["eval", LOG, "--include-training", "--json", "/dev/full"]
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert error.splitlines()[-1].startswith("cwm eval: /dev/full: cannot be written")
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("locked", [locked_file, locked_folder])
def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path, locked):
    place = tmp_path / "new" / "place"
    with locked(place):
        with pytest.raises(CwmError, match=rf"by another process \({os.getpid()}\)"), locked(place):
            pass
        with locked(tmp_path / "new" / "other"):
            pass
    with locked(place):  # free again
        if locked is locked_folder:
            (place / "kept").write_text("")
    assert names(tmp_path) == (["new"] if locked is locked_folder else [])


HOLDER = """
import os, sys, time
from pathlib import Path
from cwm_jax.files import locked_file
with locked_file(Path(sys.argv[1])):
    if os.fork() == 0:  # as a builder's process that outlives its parent
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_a_killed_process_and_its_children_leave_no_lock(tmp_path):
    place = tmp_path / "log.jsonl"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    orphan = int(holder.stdout.readline())
    try:
        with pytest.raises(CwmError, match=rf"\({holder.pid}\)"), locked_file(place):
            pass
        holder.kill()
        holder.wait()
        os.kill(orphan, 0)  # still there
        with locked_file(place):
            pass
    finally:
        os.kill(orphan, 9)
        holder.kill()
        holder.communicate()
    assert not names(tmp_path)


@pytest.mark.parametrize(
    ("command", "locked", "place"),
    [
        ([*TUNE, "--log", "place"], locked_file, "place"),
        ([*RELAX, "--workload", "matmul:8,8,8", "--log", "place"], locked_folder, "place"),
        ([*TUNE, "--resume", "there"], locked_file, "there"),
        (["collect", "--out", "place", "--workloads", "matmul:8,8,8"], locked_folder, "place"),
        ([*TRAIN, "--out", "place"], locked_folder, ".place-snapshots"),
        (["score", LOG, "--out", "place"], locked_folder, ".place-parts"),
        (["bench", "search", "--out", "place"], locked_folder, "place"),
    ],
    ids=["log", "folder", "resumed log", "corpus", "run", "scores", "bench"],
)
def test_the_second_process_is_refused(command, locked, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there").write_bytes(b"{}\n")
    with locked(Path(place)):
        error = refused(command, capsys)
        assert f"is being written by another process ({os.getpid()})" in error


def test_arrays_that_do_not_fit_on_the_disk_are_not_begun(tmp_path):
    huge = np.broadcast_to(np.float32(0), (1 << 50,))
    with pytest.raises(OSError, match="No space left on device"):
        save_arrays(tmp_path / "arrays", {"huge": huge})
    assert not names(tmp_path)
