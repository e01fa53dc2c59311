"""Functions in a user's own Python files."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cwm_jax.errors import WorkloadError


def users_function(file: Path, name: str) -> Callable[..., Any]:
    """Loads a function; the file runs as a module.

    Raises:
        WorkloadError: The file is missing or fails, or has no such function.
    """
    if not file.is_file():
        raise WorkloadError(f"{file}: no such Python file")
    spec = importlib.util.spec_from_file_location(f"cwm_workload_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise WorkloadError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        raise WorkloadError(f"{file}: does not load ({error})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise WorkloadError(f"{file}: has no function {name!r}")
    return function
