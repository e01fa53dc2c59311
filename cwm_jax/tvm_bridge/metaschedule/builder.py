"""MetaSchedule's builder on this machine, without TVM's slow start of every worker."""

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from cwm_jax.tvm_bridge.runtime import use


def local_builder(*, timeout: float = 30.0, workers: int | None = None) -> Any:
    """Returns a builder for `builder=` of TVM's `tune_tir` and `tune_relax`.

    TVM's own default imports `tvm.s_tir.tensor_intrin` in every worker of every batch before it
    builds. That takes 13 s or more of the 30 s after which the worker is killed, so that on a busy
    machine all trials fail. A schedule that uses an intrinsic holds its code already, so this
    builder leaves the import out.

    Args:
        timeout: Seconds after which the build of one candidate is stopped.
        workers: Worker processes; None for one a logical CPU.

    Returns:
        A `tvm.s_tir.meta_schedule.builder.LocalBuilder`.

    Raises:
        TvmError: No TVM with MetaSchedule is installed, or Ansor's is loaded in this process.
    """
    ms = use("metaschedule").s_tir.meta_schedule
    return ms.builder.LocalBuilder(
        max_workers=workers, timeout_sec=timeout, f_build=_build_function()
    )


def _build_function() -> Callable[[Any, Any, Any], Any]:
    # A closure is sent to the workers by value: they need not import this package.
    def build(module: Any, target: Any, params: Any) -> Any:
        from tvm.driver import build as build_module
        from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

        module = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module)
        return build_module(module, target=target)

    return build


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
