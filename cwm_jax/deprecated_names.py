"""Old places of public names: importing from them works for one release, with a warning."""

import importlib
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "cwm_jax.evaluation.metrics": "cwm_jax.ranking.metrics",
    "cwm_jax.model.config": "cwm_jax.model.world_model",
    "cwm_jax.ranking.adaptation": "cwm_jax.ranking.gaussian_process",
    "cwm_jax.ranking.pairing": "cwm_jax.ranking.catalog",
    "cwm_jax.records.program": "cwm_jax.records.graph",
    "cwm_jax.tvm_bridge.ansor.planned_search": "cwm_jax.tuning.ansor.planned_search",
}
"""Modules of 0.1.0's API reference that have moved, and where their names are looked up."""
RENAMED = {
    "Program": "ComputeGraph",
    "ProgramError": "GraphError",
    "ProgramStage": "Stage",
    "load_programs": "load_graphs",
    "read_programs": "read_graphs",
    "write_programs": "write_graphs",
}
_ELSEWHERE = {
    ("cwm_jax", "load_programs"): "cwm_jax.records.graph",
    ("cwm_jax.records.ansor_log", "LogSummary"): "cwm_jax.records.lines",
    ("cwm_jax.records.ansor_log", "iterate_records"): "cwm_jax.records.logs",
    ("cwm_jax.records.ansor_log", "load_records"): "cwm_jax.records.logs",
}


class _OldModule(ModuleType):
    """Hands out the names of the modules that came in its place."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        place, new = MOVED[self.__name__], RENAMED.get(name, name)
        found = getattr(importlib.import_module(place), new)
        warn(f"{self.__name__}.{name}", f"{place}.{new}")
        return found


class _Loader:
    """Makes the module that stands in for one that has moved."""

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return _OldModule(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        pass


def spec_of(module: str) -> ModuleSpec | None:
    """Returns the spec of a module that has moved; None for any other."""
    return ModuleSpec(module, _Loader) if module in MOVED else None  # pyright: ignore[reportArgumentType]


def warn(old: str, new: str) -> None:
    """Says that a name has moved."""
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)


def moved_name(module: str, name: str) -> object:
    """Returns what a module that still exists held under a name in 0.1.0.

    Raises:
        AttributeError: It never held it.
    """
    place, new = _ELSEWHERE.get((module, name), ""), RENAMED.get(name, name)
    if not place and name not in RENAMED:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    place = place or module
    warn(f"{module}.{name}", f"{place}.{new}")
    return getattr(importlib.import_module(place), new)
