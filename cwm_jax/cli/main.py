"""`cwm`: the command line. Exit codes: 0 done, 1 failed, 2 bad usage or input."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from cwm_jax import __version__
from cwm_jax.cli import bench, collect, evaluate, info, score, train, tune
from cwm_jax.errors import CwmError


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="cwm",
        description="A compiler world model: ranks tensor-program schedules in latent space.",
    )
    parser.add_argument("--version", action="version", version=f"cwm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (tune, collect, train, evaluate, score, bench, info):
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return options.run(options)
    except CwmError as error:
        print(f"cwm {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cwm {options.command}: interrupted", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
