"""Everything that needs TVM."""

from cwm_jax.tvm_bridge.runtime import use

__all__ = ["use"]
