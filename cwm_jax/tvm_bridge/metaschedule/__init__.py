"""What is of MetaSchedule; importing `WorldModelCostModel` loads a TVM that has it."""

from typing import TYPE_CHECKING

from cwm_jax.tvm_bridge.deferred import deferred

if TYPE_CHECKING:
    from cwm_jax.tvm_bridge.metaschedule.cost_model import WorldModelCostModel

__all__ = ["WorldModelCostModel"]

__getattr__ = deferred("cwm_jax.tvm_bridge.metaschedule.cost_model", __all__)
