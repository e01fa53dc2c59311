"""Compiled programs are kept between processes, so that a search starts in a second."""

import hashlib
import os
import platform
from pathlib import Path

import jax

_LEAST_SECONDS = 0.3


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent cache in the user's cache folder, unless one is chosen already.

    Programs compiled for one CPU may not run on another that shares the home, so each kind of
    CPU has a folder of its own.
    """
    if jax.config.values.get("jax_compilation_cache_dir") is not None:
        return
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "cwm_jax" / f"compiled-{_cpu()}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a home that is missing or read-only
        return
    if not os.access(folder, os.W_OK | os.X_OK):  # JAX would warn of every program
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)


def _cpu() -> str:
    """Short hash of the CPU's instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:12]
