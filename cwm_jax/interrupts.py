"""Ends a command in order on Ctrl-C, on `kill`, and when its terminal is closed.

Python raises `KeyboardInterrupt` in whatever the main thread does. That is lost inside a callback
of the garbage collector or of C code, which prints and drops it, and late while C code runs. So a
thread takes the signals. It asks the main thread to raise `KeyboardInterrupt` where that gets
through, asks anew where it was lost, and ends a process that does not end by itself.

This module imports nothing but the standard library: `cwm` installs the handlers before it
imports anything that takes time.
"""

import contextlib
import gc
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from cwm_jax.processes import kill, sheltered_children, stop_descendants

INTERRUPTED = 2
"""Exit code after Ctrl-C."""

_CODES = {
    getattr(signal, name): code
    for name, code in (("SIGINT", INTERRUPTED), ("SIGTERM", 143), ("SIGHUP", 129))
    if hasattr(signal, name)
}
_ASK = getattr(signal, "SIGURG", None)
"""Asks the main thread to end. Where nothing handles it, it does nothing."""

_PATIENCE = 2.0
"""Seconds until a process that has not begun to end is ended."""
_PATIENCE_WRITING = 30.0
"""The same while a result is written that would be lost."""
_PATIENCE_ENDING = 5.0
"""More seconds for a process that has begun to end."""
_TWICE = 0.7
"""Signals that are closer together are one: `timeout` sends two."""
_TICK = 0.1

# Where KeyboardInterrupt is lost, or leaves a torn file: TVM's callbacks, JAX's compilation cache.
_FRAGILE = (("tvm/_ffi/_ctypes/packed_func.py", "cfun"), ("jax/_src/lru_cache.py", "put"))
_IMPORTING = "<frozen importlib._bootstrap"


class _Watch:
    """What is known of a command that signals may end.

    Attributes:
        name: Name of the command, for the sentence at the end.
        whole_process: Whether the process ends with the command.
        number: The first signal that asked it to end.
        noticed: Whether `KeyboardInterrupt` has reached the command, which ends.
        finished: Whether the command is over and only Python has to end.
        code: Exit code of a command that is over.
        held: Blocks that look by themselves whether they should end.
        writing: Blocks that write a result.
        heard: Called when a signal asks to end.
        notes: Say what is kept.
        tidying: Called when the process is ended.
    """

    def __init__(self, name: str, whole_process: bool) -> None:
        self.name, self.whole_process = name, whole_process
        self.number: int | None = None
        self.noticed = self.finished = False
        self.code = 1
        self.held = self.writing = 0
        self.heard: list[Callable[[], None]] = []
        self.notes: list[Callable[[], str]] = []
        self.tidying: list[Callable[[], Any]] = []
        self._since = 0.0
        self._ask = False
        self._leaving = threading.Lock()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="cwm-signals", daemon=True)

    def start(self) -> None:
        """Installs the handlers, except for signals that the caller has us ignore."""
        self._hooks = sys.unraisablehook, threading.excepthook
        sys.unraisablehook, threading.excepthook = self._unraisable, self._thread_failed
        numbers = [n for n in _CODES if signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {n: signal.signal(n, self._note) for n in numbers}
        assert _ASK is not None
        self._before[_ASK] = signal.signal(_ASK, self._answer)
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread.start()
        # Children inherit this: those that build and run programs would die of Ctrl-C, each with
        # a traceback, since a terminal sends it to all. The thread gets it all the same.
        self._mask_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def stop(self) -> None:
        """Puts everything back as it was."""
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before)
        sys.unraisablehook, threading.excepthook = self._hooks
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def forget(self) -> None:
        """Puts handlers back in a forked child, which must not write into its parent's pipe."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def message(self) -> str:
        """Returns the sentence that is said at the end."""
        what = "interrupted"
        if self.number is not None and self.number != signal.SIGINT:
            what = f"stopped by {signal.Signals(self.number).name}"
        for note in reversed(self.notes):
            with contextlib.suppress(Exception):
                if text := note():
                    return f"{self.name}: {what}; {text}"
        return f"{self.name}: {what}"

    def end_code(self) -> int:
        """Returns the exit code of a command that a signal ended."""
        return _CODES.get(self.number or signal.SIGINT, INTERRUPTED)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Hears of a signal late, if the thread has not done so."""
        if not self.finished:
            if self.number is None:
                self._hear(number)
        elif self.whole_process:
            os._exit(self.code)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        """Raises `KeyboardInterrupt` in the main thread, where it gets through."""
        if self.number is None or self.noticed or self.held or self.writing or self.finished:
            return
        place = _place(frame)
        if place == "import":  # half a module would be left, and there is little to clean up
            self.leave()
        if place == "fragile":
            self._ask = True
            return
        raise KeyboardInterrupt

    def _hear(self, number: int) -> None:
        self._since = time.monotonic()
        self.number, self._ask = number, True
        for listener in self.heard:
            listener()

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CODES)
        while True:
            wait = 1.0 if self.number is None else _TICK
            ready, _, _ = select.select([self._read], [], [], wait)
            for number in os.read(self._read, 64) if ready else b"":
                if number == 0:
                    return
                if number not in _CODES or self.finished:
                    continue
                if self.number is None:
                    self._hear(number)
                elif time.monotonic() - self._since > _TWICE:
                    self.leave(128 + number)
            if self.number is not None and not self.finished:
                self._press()

    def _press(self) -> None:
        """Asks the main thread to end, and in the end does without its answer."""
        patience = _PATIENCE_WRITING if self.writing else _PATIENCE
        patience += _PATIENCE_ENDING if self.noticed else 0
        if time.monotonic() - self._since > patience:
            self.leave()
        elif self._ask and not (self.noticed or self.held or self.writing):
            self._ask = False
            assert _ASK is not None
            signal.pthread_kill(self._main, _ASK)

    def _unraisable(self, unraisable: Any) -> None:
        if self.number is None:
            self._hooks[0](unraisable)
        elif issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._ask = True  # other errors are consequences

    def _thread_failed(self, failure: Any) -> None:
        if self.number is None:
            self._hooks[1](failure)

    def leave(self, code: int | None = None) -> None:
        """Ends the process and all that it started, from any thread.

        Python's own way to end would wait for threads, and run into those of XLA.
        """
        if not self._leaving.acquire(blocking=False):
            time.sleep(_PATIENCE_ENDING)  # another thread ends the process
            os._exit(self.end_code())
        started = stop_descendants()
        if not self.noticed:
            say_error(self.message())
        for tidy in reversed(self.tidying):
            with contextlib.suppress(Exception):
                tidy()
        sys.setswitchinterval(60)  # no thread may see a child die, and log that as a failure
        kill(started)
        os._exit(self.end_code() if code is None else code)


_current: _Watch | None = None


def _forget_in_child() -> None:
    global _current
    watch, _current = _current, None
    if watch is not None:
        watch.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def end_in_order(name: str, command: Callable[[], int], *, whole_process: bool) -> int:
    """Runs a command so that signals end it in order, and returns its exit code.

    A command that is asked to end says so in one sentence, leaves no process behind, and returns 2
    for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP. A second Ctrl-C ends the process at once.

    Args:
        name: For the sentence, `cwm` and the subcommand.
        command: Does the work.
        whole_process: Whether the process ends with the command.
    """
    global _current
    main_thread = threading.current_thread() is threading.main_thread()
    if _current is not None or _ASK is None or not main_thread:
        return command()
    watch = _current = _Watch(name, whole_process)
    try:
        watch.start()
        watch.code = command()
    except SystemExit as error:
        watch.code = error.code if isinstance(error.code, int) else 1
        if watch.number is None:
            raise
        watch.code = _ended(watch)
    except BaseException as error:
        if watch.number is None and not isinstance(error, KeyboardInterrupt):
            raise
        watch.code = _ended(watch)
    finally:
        watch.finished = True
        if whole_process:
            _flush()
        else:
            watch.stop()
            _current = None
    return watch.code


def _ended(watch: _Watch) -> int:
    """Ends what a signal has interrupted; returns the exit code, if the process goes on."""
    watch.noticed = True
    _flush()
    say_error(watch.message())
    if watch.number is not None and watch.whole_process:
        watch.leave()
    if watch.number is not None:
        kill(stop_descendants())
    return watch.end_code()


def name_command(name: str) -> None:
    """Says what runs, for the sentence at the end."""
    if _current is not None:
        _current.name = name


@contextlib.contextmanager
def note_kept(note: Callable[[], str]) -> Iterator[None]:
    """Says at an interrupt what is kept and how to go on.

    Args:
        note: Returns the sentence, or "" if there is nothing to say; must be quick.
    """
    if _current is None:
        yield
        return
    _current.notes.append(note)
    yield  # stays where an exception ends the block: it is said further up
    _current.notes.remove(note)


@contextlib.contextmanager
def tidied(tidy: Callable[[], Any]) -> Iterator[None]:
    """Calls a function at the end of a block, also where a signal ends the process in it."""
    watch = _current
    if watch is not None:
        watch.tidying.append(tidy)
    try:
        yield
    finally:
        if watch is not None:
            watch.tidying.remove(tidy)
        tidy()


def tidy_at_end(tidy: Callable[[], Any]) -> None:
    """Calls a function where a signal ends the process, which `atexit` does not see."""
    if _current is not None:
        _current.tidying.append(tidy)


def own_temporary_folder() -> None:
    """Makes a folder for the temporary files of the process; it goes at the end.

    Builders that are ended leave what they built there. Does nothing outside `cwm`, where a script
    may have chosen a folder of its own.
    """
    if _current is None or not _current.whole_process:
        return
    import atexit
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="cwm-")
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tidy_at_end(lambda: shutil.rmtree(folder, ignore_errors=True))


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Lets a result be written to its end before an interrupt counts."""
    watch = _current
    if watch is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch.writing += 1
    try:
        yield
    finally:
        watch.writing -= 1
    _raise_if_asked(watch)


@contextlib.contextmanager
def held(heard: Callable[[], None]) -> Iterator[bool]:
    """Raises nothing in a block that looks by itself whether it should end.

    Args:
        heard: Called when a signal asks to end, from any thread.

    Yields:
        Whether signals are watched here; if not, nothing is done.
    """
    watch = _current
    if watch is None or threading.current_thread() is not threading.main_thread():
        yield False
        return
    watch.held += 1
    watch.heard.append(heard)
    if watch.number is not None:
        heard()
    try:
        yield True
    finally:
        watch.heard.remove(heard)
        watch.held -= 1
    _raise_if_asked(watch)


def _raise_if_asked(watch: _Watch) -> None:
    if watch.number is not None and not (watch.noticed or watch.held or watch.writing):
        raise KeyboardInterrupt


def run_child(command: Sequence[str], patience: float | None = None) -> tuple[int, str, str]:
    """Runs a command that ends with this process; returns its exit code, output and errors.

    Args:
        command: The command and its arguments.
        patience: Seconds that it may take.

    Raises:
        TimeoutError: It took longer.
    """
    import subprocess

    pipe = subprocess.PIPE
    with sheltered_children():
        child = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    try:
        output, errors = child.communicate(timeout=patience)
    except BaseException as error:
        # An interrupt ends it with all its children; ended alone, it would orphan them.
        late = isinstance(error, subprocess.TimeoutExpired)
        if _current is None or late:
            child.kill()
            child.communicate()
        if late:
            raise TimeoutError(f"{command[0]}: no end after {patience} s") from error
        raise
    return child.returncode, output, errors


def _place(frame: FrameType | None) -> str:
    """Tells where the main thread is: in an `import`, in a `fragile` place, or elsewhere."""
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    importing = False
    while frame is not None:
        code = frame.f_code
        if code in callbacks or code.co_name == "__del__":
            return "fragile"
        if any(code.co_name == name and code.co_filename.endswith(f) for f, name in _FRAGILE):
            return "fragile"
        importing = importing or code.co_filename.startswith(_IMPORTING)
        frame = frame.f_back
    return "import" if importing else "elsewhere"


def say_error(text: str) -> None:
    """Writes a line to standard error and shows the cursor, whatever the streams are busy with."""
    with contextlib.suppress(Exception):
        if not _is_stderr(sys.stderr):  # somebody catches what is said
            print(text, file=sys.stderr)
        elif select.select([], [2], [], 1.0)[1]:  # nobody may read it
            cursor = "\x1b[?25h" if os.isatty(2) else ""
            os.write(2, f"{cursor}{text}\n".encode(errors="backslashreplace"))


def _is_stderr(stream: Any) -> bool:
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
