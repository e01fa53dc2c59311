"""A compiler world model: rank tensor-program schedules by rolling them out in latent space."""

TYPE_CHECKING = False  # `cwm` starts faster without `typing`
if TYPE_CHECKING:
    from cwm_jax.ranking.scorer import Scorer
    from cwm_jax.records.graph import load_programs
    from cwm_jax.records.logs import load_records

__version__ = "0.1.0"
__all__ = ["Scorer", "__version__", "load_programs", "load_records"]

# Reading logs should not cost the import of JAX, nor the command line that of anything.
_MODULES = {
    "Scorer": "cwm_jax.ranking.scorer",
    "load_programs": "cwm_jax.records.graph",
    "load_records": "cwm_jax.records.ansor_log",
}


def __getattr__(name: str) -> object:
    import importlib

    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
