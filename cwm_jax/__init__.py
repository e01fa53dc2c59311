"""A compiler world model: rank tensor-program schedules by rolling them out in latent space."""

import sys

TYPE_CHECKING = False  # `cwm` starts faster without `typing`
if TYPE_CHECKING:
    from cwm_jax.errors import CwmError
    from cwm_jax.model.checkpoint import load_checkpoint
    from cwm_jax.ranking.scorer import Scorer
    from cwm_jax.records.graph import load_graphs
    from cwm_jax.records.logs import load_records
    from cwm_jax.training.loop import train
    from cwm_jax.tuning.tune import tune

__version__ = "0.1.0"
__all__ = [
    "CwmError",
    "Scorer",
    "__version__",
    "load_checkpoint",
    "load_graphs",
    "load_records",
    "train",
    "tune",
]

# Reading logs should not cost the import of JAX, nor the command line that of anything.
_MODULES = {
    "CwmError": "cwm_jax.errors",
    "Scorer": "cwm_jax.ranking.scorer",
    "load_checkpoint": "cwm_jax.model.checkpoint",
    "load_graphs": "cwm_jax.records.graph",
    "load_records": "cwm_jax.records.logs",
    "train": "cwm_jax.training.loop",
    "tune": "cwm_jax.tuning.tune",
}


class _OldPlaces:
    """Finds modules where 0.1.0 documented them; asked only when nothing else finds one."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if not name.startswith("cwm_jax."):
            return None
        from cwm_jax.deprecated_names import spec_of

        return spec_of(name)


sys.meta_path.append(_OldPlaces)  # pyright: ignore[reportArgumentType]


def __getattr__(name: str) -> object:
    import importlib

    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "load_programs":
        from cwm_jax.deprecated_names import moved_name

        return moved_name(__name__, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
