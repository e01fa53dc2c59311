"""Names of a package whose module is imported only when they are asked for."""

import importlib
from collections.abc import Callable, Collection
from typing import Any


def deferred(module: str, names: Collection[str]) -> Callable[[str], Any]:
    """Returns a package's `__getattr__` (PEP 562).

    Args:
        module: Where the names are defined; importing it may load a TVM.
        names: What the package offers of it.
    """

    def attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module.rpartition('.')[0]!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module), name)

    return attribute
