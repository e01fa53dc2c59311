"""What is of MetaSchedule; importing `WorldModelCostModel` loads a TVM that has it."""

from typing import TYPE_CHECKING

from cwm_jax.tvm_bridge.runtime import deferred

if TYPE_CHECKING:
    from cwm_jax.tvm_bridge.metaschedule.builder import local_builder
    from cwm_jax.tvm_bridge.metaschedule.cost_model import WorldModelCostModel

__all__ = ["WorldModelCostModel", "local_builder"]

__getattr__ = deferred(__name__, {"WorldModelCostModel": "cost_model", "local_builder": "builder"})
