"""Finds and loads a TVM of the right kind.

Two TVMs are of use and cannot live in one process: one that still has Ansor (a user's own
build, else the one inside the bitblas wheel), and the apache-tvm wheel with MetaSchedule.
"""

import atexit
import contextlib
import ctypes
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import platform
import shlex
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from cwm_jax.errors import TvmError
from cwm_jax.files import user_cache
from cwm_jax.interrupts import own_temporary_folder, tidy_at_end

_THREADS = "TVM_NUM_THREADS"
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> int:
    """Returns how many physical cores this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    try:
        return len({Path(_SIBLINGS.format(cpu)).read_text() for cpu in allowed})
    except OSError:
        return len(allowed)


def run_on_all_cores() -> None:
    """Lets TVM's programs use every core, in this process and its children.

    TVM runs on half of what it counts, since it takes every x86 machine for one of two threads a
    core (`src/runtime/threading_backend.cc`, `MaxConcurrency`): on a cloud machine with one
    thread a core, half of the cores stay idle. A number of threads that the user has set stays.
    """
    os.environ.setdefault(_THREADS, str(usable_cores()))


def threads_in_use() -> int:
    """Returns how many threads TVM's programs run on where a TVM is loaded by `runtime.use`."""
    return int(os.environ.get(_THREADS, usable_cores()))


Kind = Literal["ansor", "metaschedule"]

# In this order: a TVM that still has Ansor has an older MetaSchedule too, and counts as Ansor's.
_SUBMODULES: dict[Kind, tuple[str, ...]] = {
    "ansor": ("auto_scheduler",),
    "metaschedule": ("s_tir.meta_schedule", "meta_schedule"),
}

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
_STAND_IN_SOURCE = "".join(
    f"int {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in _DRIVER_FUNCTIONS
)
_DRIVER = "libcuda.so.1"
_CUDA_LIBRARIES = {"cuda_runtime": "libcudart.so.12", "cuda_nvrtc": "libnvrtc.so.12"}

# An empty cache folder that TVM 0.17 makes in the working directory when it is imported.
_LITTER = ".pkl_memoize_py3"

# TVM 0.17 makes a folder for the data of its own tests when it is imported, here or in the home.
_TEST_DATA, _TEST_DATA_AT_HOME = "TEST_DATA_ROOT_PATH", ".tvm_test_data"


def use(kind: Kind) -> ModuleType:
    """Returns a working `tvm` of a kind, importing it on the first call.

    Environment variables are set so that the child processes that build and run candidates
    find the same TVM, and so that programs run on all cores (`cwm_jax.tvm_bridge.runtime`).

    Args:
        kind: `ansor` for a TVM with `tvm.auto_scheduler` (a user's own first, else the one
            bundled in bitblas); `metaschedule` for the apache-tvm wheel.

    Raises:
        TvmError: No such TVM is installed, it does not load, or the other kind is loaded.
    """
    if "tvm" in sys.modules:
        _check_loaded(kind)
        return _import(kind)
    run_on_all_cores()
    _check_temporary_folder()
    if kind == "ansor":
        _make_no_folder_at_home()
        _prepare_ansor()
    else:
        _prepare_metaschedule()
    try:
        litter = Path(_LITTER).absolute()
    except OSError as error:
        raise TvmError(f"the working directory is gone ({error}); change to another") from error
    littered_before = litter.exists()
    if not littered_before:
        tidy_at_end(lambda: _remove_if_empty(litter))
    own_temporary_folder()
    tvm = _import(kind)
    if not littered_before:
        # The builder's child processes make it again, so it can go only at the very end.
        atexit.register(_remove_if_empty, litter)
    return tvm


def check_builder_tools() -> None:
    """Checks that programs can be built, which TVM finds out one by one.

    Raises:
        TvmError: There is no C++ compiler, or no `tar`.
    """
    _compiler()
    if not shutil.which("tar"):
        raise TvmError("the command tar is needed: TVM packs every program with it")


def _check_temporary_folder() -> None:
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise TvmError(f"TVM needs a temporary folder ({error}); set TMPDIR to one") from error


def _make_no_folder_at_home() -> None:
    """Names a folder that is there for TVM's test data: a home may be read-only, or missing."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: this user has no home
        if (Path.home() / _TEST_DATA_AT_HOME).is_dir():
            return
    os.environ.setdefault(_TEST_DATA, tempfile.gettempdir())


def loaded_kind() -> Kind | None:
    """Returns which TVM this process has loaded; None if none, or one with neither tuner."""
    for place in getattr(sys.modules.get("tvm"), "__path__", ()):
        if kind := _kind_of(Path(place)):
            return kind
    return None


def _check_loaded(kind: Kind) -> None:
    if loaded_kind() != kind:
        tvm = sys.modules["tvm"]
        version = getattr(tvm, "__version__", "of unknown version")
        raise TvmError(
            f"TVM {version} from {getattr(tvm, '__file__', None)} is loaded in this process and "
            f"is not one for {kind!r}; two TVMs cannot share a process, so use {kind!r} in a "
            "fresh one"
        )


def _import(kind: Kind) -> ModuleType:
    try:
        tvm = importlib.import_module("tvm")
        for name in _SUBMODULES[kind]:
            if _has(Path(tvm.__path__[0]), name):
                importlib.import_module(f"tvm.{name}")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        if getattr(error, "filename", None) == _LITTER:
            raise TvmError(
                f"TVM makes the folder {_LITTER} where it runs, which fails here ({error}); run "
                "this in a folder that exists and can be written"
            ) from error
        raise TvmError(f"the {kind} TVM does not load: {error}") from error
    return tvm


def _has(package: Path, module: str) -> bool:
    return package.joinpath(*module.split(".")).is_dir()


def _kind_of(package: Path) -> Kind | None:
    """Tells the kind of a `tvm` package by its folders, without importing it."""
    for kind, names in _SUBMODULES.items():
        if any(_has(package, name) for name in names):
            return kind
    return None


def _folders(package: str, path: list[str] | None = None) -> list[Path]:
    """Folders of a package that is not imported, by the import system or on a given path."""
    if path is None:
        spec = importlib.util.find_spec(package)
    else:
        spec = importlib.machinery.PathFinder.find_spec(package, path)
    return [Path(place) for place in (spec.submodule_search_locations if spec else None) or []]


def _installed(kind: Kind) -> Path | None:
    """The first installed `tvm` package of a kind, which another may hide."""
    places = _folders("tvm")
    for entry in sys.path:
        places += _folders("tvm", [entry])
    return next((place for place in places if _kind_of(place) == kind), None)


def _prepare_ansor() -> None:
    bundled = _bundled_root()
    if bundled is not None:
        # A parent process that uses the bundled one hands it on, and it may hide a user's own.
        _forget_bundled(bundled)
    own = _installed("ansor")
    if own is not None:
        _make_first(own)
    elif bundled is not None:
        _prepare_bundled(bundled)
    else:
        raise TvmError(
            "no TVM with Ansor is installed: upstream removed it, and the bundled one comes "
            "with the extra 'ansor' (pip install 'cwm-jax[ansor]')"
        )


def _prepare_metaschedule() -> None:
    place = _installed("metaschedule")
    if place is None:
        raise TvmError("no TVM with MetaSchedule is installed; pip install apache-tvm")
    bundled = _bundled_root()
    if bundled is not None:
        _forget_bundled(bundled)
    _make_first(place)


def _make_first(package: Path) -> None:
    """Lets a `tvm` package win here and in child processes, where the wheel may hide it."""
    folder = package.parent
    if _folders("tvm")[:1] == [package] and str(folder) in site.getsitepackages():
        return
    sys.path.insert(0, str(folder))
    _prepend("PYTHONPATH", folder)
    importlib.invalidate_caches()


def _bundled_root() -> Path | None:
    roots = [place / "3rdparty" / "tvm" for place in _folders("bitblas")]
    return next((root for root in roots if (root / "build" / "libtvm.so").is_file()), None)


def _prepare_bundled(root: Path) -> None:
    # Its build folder stays off LD_LIBRARY_PATH: it would give its libtvm_runtime.so to a
    # child process that loads the other TVM.
    _prepend("LD_LIBRARY_PATH", *_preload_cuda())
    os.environ["TVM_LIBRARY_PATH"] = str(root / "build")
    _make_first(root / "python" / "tvm")


def _forget_bundled(root: Path) -> None:
    """Undoes what a parent process that uses the bundled TVM has handed on."""
    sys.path[:] = [entry for entry in sys.path if not Path(entry).is_relative_to(root)]
    for variable in ("PYTHONPATH", "TVM_LIBRARY_PATH"):
        entries = os.environ.get(variable, "").split(os.pathsep)
        kept = [entry for entry in entries if entry and not Path(entry).is_relative_to(root)]
        os.environ.pop(variable, None)
        if kept:
            os.environ[variable] = os.pathsep.join(kept)
    importlib.invalidate_caches()


def _prepend(variable: str, *folders: Path) -> None:
    present = [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]
    entries = dict.fromkeys([*map(str, folders), *present])
    os.environ[variable] = os.pathsep.join(entries)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _preload_cuda() -> list[Path]:
    """Loads the CUDA libraries that libtvm.so links to; returns the folders they lie in."""
    folders = []
    for package, library in _CUDA_LIBRARIES.items():
        found = [place / package / "lib" / library for place in _folders("nvidia")]
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
    # Homes are shared between machines and versions: the name tells what is inside.
    digest = hashlib.sha256(_STAND_IN_SOURCE.encode()).hexdigest()[:8]
    try:
        folder = user_cache() / f"no-driver-{platform.machine()}-{digest}"
        if (folder / _DRIVER).is_file():
            return folder / _DRIVER
        folder.mkdir(parents=True, exist_ok=True)
        return _compile_stand_in(folder)
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        temporary = tempfile.mkdtemp(prefix="cwm-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        tidy_at_end(lambda: shutil.rmtree(temporary, ignore_errors=True))
        return _compile_stand_in(Path(temporary))


def _compile_stand_in(folder: Path) -> Path:
    command = _compiler()
    with tempfile.TemporaryDirectory(dir=folder) as work:
        code, library = Path(work) / "driver.c", Path(work) / _DRIVER
        code.write_text(_STAND_IN_SOURCE)
        options = ["-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{_DRIVER}"]
        done = subprocess.run(
            [*command, *options, "-o", str(library), str(code)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise TvmError(
                f"{shlex.join(command)} cannot compile a shared library: {done.stderr.strip()}"
            )
        # Another process may have compiled it meanwhile: either one serves.
        return library.replace(folder / _DRIVER)


def _compiler() -> list[str]:
    """The C or C++ compiler's command; $CXX may hold options or a wrapper such as ccache."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in (named, ["c++"], ["g++"], ["clang++"], ["cc"], ["gcc"]):
        if command and shutil.which(command[0]):
            return command
    raise TvmError("a C++ compiler is needed (g++ or clang++): TVM links every program with it")


def deferred(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a package's `__getattr__` (PEP 562).

    Args:
        package: The package's name.
        modules: Name that the package offers -> its module in the package; importing that may
            load a TVM.
    """

    def attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return attribute
