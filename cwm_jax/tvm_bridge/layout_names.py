"""A repair of TVM while networks are lowered: axis names that layout rewriting can read.

Ansor packs a weight in the order in which the loops of the best schedule read it
(`src/auto_scheduler/compute_dag.cc`, `RewriteLayout`). It finds an axis again by its name up to
the first digit. Since `topi.nn.matmul` names its axes `i0` and `i1`, every candidate of a dense
layer fails to build. The packed side of the same function expects `i` and `j`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_BATCH_NAMES = ("b", "c", "d", "e")


class _NamedAxes:
    """`tvm.te`, but a computation over anonymous indices names them `..., b, i, j`."""

    def __init__(self, te: Any) -> None:
        self._te = te

    def __getattr__(self, name: str) -> Any:
        return getattr(self._te, name)

    def compute(self, shape: Any, function: Any, *args: Any, **options: Any) -> Any:
        anonymous = function.__code__.co_argcount == 0
        if anonymous and 2 <= len(shape) <= 2 + len(_BATCH_NAMES):
            options.setdefault("varargs_names", [*_BATCH_NAMES[: len(shape) - 2], "i", "j"])
        return self._te.compute(shape, function, *args, **options)


@contextmanager
def readable_axis_names(tvm: Any) -> Iterator[None]:
    """Lets Relay's dense layers be tuned with packed weights."""
    module: Any = sys.modules[f"{tvm.__name__}.topi.nn.dense"]
    original = module.te
    module.te = _NamedAxes(original)
    try:
        yield
    finally:
        module.te = original
