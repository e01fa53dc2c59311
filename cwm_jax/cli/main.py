"""`cwm`: the command line. Exit codes: 0 done, 1 failed, 2 bad usage or input, or interrupted.

Nothing slow is imported before signals are handled, and of the commands only the one that runs.
"""

import _signal as signal  # pyright: ignore[reportMissingImports] - `signal` imports `enum`

TYPE_CHECKING = False  # likewise `typing`
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Sequence
    from typing import Any

_MODULES = {
    "tune": "tune",
    "collect": "collect",
    "train": "train",
    "eval": "evaluate",
    "score": "score",
    "import": "import_database",
    "bench": "bench",
    "info": "info",
}
"""In `cwm_jax.cli`, by command."""


def build_parser(command: str | None = None) -> "ArgumentParser":
    """Returns the parser of all subcommands, or of one.

    Args:
        command: The one; what is no subcommand gets the parser of all.
    """
    import argparse
    import importlib

    from cwm_jax import __version__

    parser = argparse.ArgumentParser(
        prog="cwm",
        description="A compiler world model: ranks tensor-program schedules in latent space.",
    )
    parser.add_argument("--version", action="version", version=f"cwm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in [command] if command in _MODULES else _MODULES:
        importlib.import_module(f"cwm_jax.cli.{_MODULES[name]}").add_parser(commands)
    return parser


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Runs one subcommand and returns the exit code."""
    # Ctrl-C waits until it is handled.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        _mend_streams()
        from cwm_jax.interrupts import end_in_order

        return end_in_order("cwm", lambda: _run(arguments), whole_process=arguments is None)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(arguments: "Sequence[str] | None") -> int:
    import contextlib
    import sys
    import warnings

    from cwm_jax.errors import CwmError, OutputError
    from cwm_jax.interrupts import name_command, say_error

    words = sys.argv[1:] if arguments is None else arguments
    command = words[0] if words and words[0] in _MODULES else None
    name = f"cwm {command}" if command else "cwm"
    name_command(name)
    try:
        options = build_parser(command).parse_args(arguments)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            with contextlib.ExitStack() as options.until_end:
                code = options.run(options)
            return _printed(name, code)
    except SystemExit as error:  # after --help, or bad usage
        raise SystemExit(_printed(name, error.code if isinstance(error.code, int) else 1)) from None
    except CwmError as error:
        say_error(f"{name}: {error}")
        return 1 if isinstance(error, OutputError) else 2
    except BrokenPipeError:
        return _printed(name, 1)
    except OSError as error:  # a full disk, say
        say_error(f"{name}: {error}")
        return _printed(name, 1)


def _mend_streams() -> None:
    """Lets every text be printed: to closed streams, and in encodings that lack a character."""
    import contextlib
    import io
    import os
    import sys

    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            # Else the next file that is opened takes the number, and gets what children print.
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _printed(name: str, code: int) -> int:
    """Prints what is still to be printed; returns the exit code, 1 where it gets nowhere.

    Where nobody reads it, it is dropped: Python would complain at the end.
    """
    import os
    import sys

    from cwm_jax.interrupts import say_error

    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            if not isinstance(error, BrokenPipeError):
                why = getattr(error, "strerror", None) or error
                say_error(f"{name}: what is printed cannot be written ({why})")
                code = code or 1
    return code


def _show_warning(message: Warning | str, *_: "Any", **__: "Any") -> None:
    import sys

    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
