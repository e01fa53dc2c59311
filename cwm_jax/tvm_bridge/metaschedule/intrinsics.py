"""TVM's tensor intrinsics, imported in a fraction of the time that TVM takes."""

import importlib
import inspect
from types import ModuleType

_MODULE = "tvm.s_tir.tensor_intrin"


def load_intrinsics() -> None:
    """Imports what every `TuneContext` of TVM 0.27 imports when it is made.

    Each of hundreds of functions looks at the whole stack (`prim_func` in
    `tvm/tirx/script/parser/entry.py`), and for frames without a file, importlib's own, `inspect`
    searches all modules there are: 13 s, and minutes where PyTorch is loaded, too. TVM looks at
    no module of a frame.
    """
    search = inspect.getmodule
    inspect.getmodule = _no_module
    try:
        importlib.import_module(_MODULE)
    finally:
        inspect.getmodule = search


def _no_module(thing: object, _filename: str | None = None) -> ModuleType | None:
    del thing
    return None
