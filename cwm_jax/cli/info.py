"""`cwm info`: what is installed, which TVM is found, which checkpoints are shipped."""

import argparse
import importlib.metadata
import platform
import sys
from typing import Any

from rich.table import Table

from cwm_jax import __version__
from cwm_jax.cli.common import add_json_option, open_console, write_json
from cwm_jax.errors import CheckpointError, TvmError
from cwm_jax.files import Output, check_outputs
from cwm_jax.interrupts import run_child

_PATIENCE = 120


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser("info", help="versions, TVM, devices, hardware, checkpoints")
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what a bug report should hold."""
    check_outputs(Output("--json", options.json))
    facts = _facts()
    console = open_console()
    table = Table(show_header=False)
    for name, value in facts.items():
        if isinstance(value, dict):
            value = "\n".join(f"{key}: {entry}" for key, entry in value.items()) or "none"
        table.add_row(name, str(value))
    console.print(table)
    write_json(options.json, facts)
    return 0


def _facts() -> dict[str, Any]:
    import jax

    from cwm_jax.compilation import check_devices
    from cwm_jax.features.hardware import known_hardware

    check_devices()
    packages = ("jax", "flax", "orbax-checkpoint", "numpy", "apache-tvm", "bitblas", "xgboost")
    return {
        "cwm-jax": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "jax devices": ", ".join(str(device) for device in jax.devices()),
        "ansor": _ansor(),
        "metaschedule": _metaschedule(),
        "hardware cards": ", ".join(known_hardware()),
        "checkpoints": _checkpoints(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _ansor() -> str:
    from cwm_jax.tuning.ansor.targets import host_target
    from cwm_jax.tvm_bridge.runtime import use

    try:
        tvm = use("ansor")
        return f"TVM {tvm.__version__}, host target {host_target(tvm)}"
    except TvmError as error:
        return f"not usable: {error}"


_ASK_METASCHEDULE = """
from cwm_jax.tuning.metaschedule.targets import host_target
from cwm_jax.tvm_bridge.runtime import use
tvm = use("metaschedule")
print(f"TVM {tvm.__version__}, host target {host_target(tvm)}")
"""


def _metaschedule() -> str:
    """Asks another process: one process holds one TVM."""
    command = [sys.executable, "-c", _ASK_METASCHEDULE]
    try:
        code, output, errors = run_child(command, _PATIENCE)
    except TimeoutError:
        return f"not usable: no answer in {_PATIENCE} s"
    if code == 0:
        return output.strip()
    return f"not usable: {(errors.strip().splitlines() or ['no reason given'])[-1]}"


def _checkpoints() -> dict[str, str]:
    from cwm_jax.model.checkpoint import checkpoints_folder, read_card, shipped_checkpoints

    found: dict[str, str] = {}
    for name in shipped_checkpoints():
        try:
            card = read_card(checkpoints_folder() / name)
            test = card.get("metrics", {}).get("test", {})
            found[name] = f"for {card['hardware']['name']}, test top-1 {test.get('top1', 0):.3f}"
        except CheckpointError as error:
            found[name] = str(error)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            found[name] = f"its card.json was changed ({error!r})"
    return found
