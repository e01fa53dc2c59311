"""What is of MetaSchedule; importing `WorldModelCostModel` loads a TVM that has it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cwm_jax.tvm_bridge.metaschedule.cost_model import WorldModelCostModel

__all__ = ["WorldModelCostModel"]


def __getattr__(name: str) -> Any:
    # The class needs its TVM when it is defined; what else is here finds one later, or never.
    if name in __all__:
        from cwm_jax.tvm_bridge.metaschedule import cost_model

        return getattr(cost_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
