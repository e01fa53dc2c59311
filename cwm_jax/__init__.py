"""A compiler world model: rank tensor-program schedules by rolling them out in latent space."""

from typing import TYPE_CHECKING, Any

from cwm_jax.records.ansor_log import load_records
from cwm_jax.records.program import load_programs

if TYPE_CHECKING:
    from cwm_jax.ranking.scorer import Scorer

__version__ = "0.1.0"
__all__ = ["Scorer", "__version__", "load_programs", "load_records"]


def __getattr__(name: str) -> Any:
    # Reading logs should not cost the import of JAX.
    if name == "Scorer":
        from cwm_jax.ranking.scorer import Scorer

        return Scorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
