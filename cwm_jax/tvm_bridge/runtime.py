"""Finds and loads a TVM of the right kind.

Two TVMs are of use and cannot live in one process: one that still has Ansor (a user's own
build, else the one inside the bitblas wheel), and the apache-tvm wheel with MetaSchedule.
"""

import ctypes
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Literal

from cwm_jax.errors import TvmError

Kind = Literal["ansor", "metaschedule"]

# TVM 0.17 has a MetaSchedule of its own, whose traces are not those of the apache-tvm wheel.
_SUBMODULE: dict[Kind, str] = {"ansor": "auto_scheduler", "metaschedule": "s_tir.meta_schedule"}

# What libtvm.so of the bitblas wheel takes from the NVIDIA driver.
_DRIVER_FUNCTIONS = (
    "cuDeviceGetName",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuLaunchKernel",
    "cuMemsetD32_v2",
    "cuModuleGetFunction",
    "cuModuleGetGlobal_v2",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuTensorMapEncodeIm2col",
    "cuTensorMapEncodeTiled",
)
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_DRIVER = "libcuda.so.1"
_CUDA_LIBRARIES = {"cuda_runtime": "libcudart.so.12", "cuda_nvrtc": "libnvrtc.so.12"}


def use(kind: Kind) -> ModuleType:
    """Returns a working `tvm` of a kind, importing it on the first call.

    For Ansor, environment variables are set so that the builder's child processes find the
    same TVM.

    Args:
        kind: `ansor` for a TVM with `tvm.auto_scheduler` (a user's own first, else the one
            bundled in bitblas); `metaschedule` for the apache-tvm wheel.

    Raises:
        TvmError: No such TVM is installed, it does not load, or the other kind is loaded.
    """
    if "tvm" in sys.modules:
        return _loaded(kind)
    if not _installed_has(_SUBMODULE[kind].split(".")[0]):
        if kind == "metaschedule":
            raise TvmError("no TVM with MetaSchedule is installed; pip install apache-tvm")
        _prepare_bundled()
    try:
        tvm = importlib.import_module("tvm")
    except (ImportError, OSError, RuntimeError) as error:
        raise TvmError(f"the {kind} TVM does not load: {error}") from error
    if not _has_submodule(tvm, kind):
        raise TvmError(f"{tvm.__file__} has no {_SUBMODULE[kind]}")
    return tvm


def _loaded(kind: Kind) -> ModuleType:
    tvm = sys.modules["tvm"]
    if not _has_submodule(tvm, kind):
        version = getattr(tvm, "__version__", "of unknown version")
        raise TvmError(
            f"TVM {version} from {tvm.__file__} is loaded in this process and has no "
            f"{_SUBMODULE[kind]}; two TVMs cannot share a process, so use {kind!r} in a "
            "fresh one"
        )
    return tvm


def _has_submodule(tvm: ModuleType, kind: Kind) -> bool:
    try:
        importlib.import_module(f"{tvm.__name__}.{_SUBMODULE[kind]}")
    except ImportError:
        return False
    return True


def _installed_has(subpackage: str) -> bool:
    """Whether the `tvm` that would be imported has a subpackage."""
    spec = importlib.util.find_spec("tvm")
    places = (spec.submodule_search_locations if spec else None) or []
    return any((Path(place) / subpackage).is_dir() for place in places)


def _prepare_bundled() -> None:
    spec = importlib.util.find_spec("bitblas")
    places = (spec.submodule_search_locations if spec else None) or []
    roots = [Path(place) / "3rdparty" / "tvm" for place in places]
    root = next((root for root in roots if (root / "build" / "libtvm.so").is_file()), None)
    if root is None:
        raise TvmError(
            "no TVM with Ansor is installed: upstream removed it, and the bundled one comes "
            "with the extra 'ansor' (pip install 'cwm-jax[ansor]')"
        )
    folders = [root / "build", *_preload_cuda()]
    sys.path.insert(0, str(root / "python"))
    importlib.invalidate_caches()
    _prepend("PYTHONPATH", root / "python")
    _prepend("LD_LIBRARY_PATH", *folders)
    os.environ["TVM_LIBRARY_PATH"] = str(root / "build")


def _prepend(variable: str, *folders: Path) -> None:
    present = os.environ.get(variable, "")
    entries = [str(folder) for folder in folders] + ([present] if present else [])
    os.environ[variable] = os.pathsep.join(entries)


def _preload_cuda() -> list[Path]:
    """Loads the CUDA libraries that libtvm.so links to; returns the folders they lie in."""
    folders = []
    spec = importlib.util.find_spec("nvidia")
    places = (spec.submodule_search_locations if spec else None) or []
    for package, library in _CUDA_LIBRARIES.items():
        found = [Path(place) / package / "lib" / library for place in places]
        path = next((path for path in found if path.is_file()), None)
        if path is not None:
            folders.append(path.parent)
        _preload(str(path) if path else library)
    try:
        _preload(_DRIVER)
    except TvmError:
        stand_in = driver_stand_in()
        _preload(str(stand_in))
        folders.append(stand_in.parent)
    return folders


def _preload(library: str) -> None:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise TvmError(f"the bundled TVM needs {library}, which does not load: {error}") from error


def driver_stand_in() -> Path:
    """Returns a `libcuda.so.1` that answers "no device" to everything, compiling it once.

    It lies in the user's cache folder, or in a temporary one where that cannot be written.

    Raises:
        TvmError: There is no C or C++ compiler.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cwm_jax"
    path = cache / _DRIVER
    if path.is_file():
        return path
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return _compile_stand_in(cache)
    except OSError:
        return _compile_stand_in(Path(tempfile.mkdtemp(prefix="cwm-")))


def _compile_stand_in(folder: Path) -> Path:
    named = os.environ.get("CXX", "")
    compilers = [named, "c++", "g++", "clang++", "cc", "gcc"]
    compiler = next((found for name in compilers if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise TvmError("a C++ compiler is needed (g++ or clang++): TVM links every program with it")
    source = "".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in _DRIVER_FUNCTIONS)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        code, library = Path(work) / "driver.c", Path(work) / _DRIVER
        code.write_text(source)
        command = [compiler, "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{_DRIVER}"]
        done = subprocess.run(
            [*command, "-o", str(library), str(code)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise TvmError(f"{compiler} cannot compile a shared library: {done.stderr.strip()}")
        # Another process may have compiled it meanwhile: either one serves.
        return library.replace(folder / _DRIVER)
