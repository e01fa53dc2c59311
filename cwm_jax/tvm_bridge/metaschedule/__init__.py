"""MetaSchedule integration: importing any of its names loads a TVM that has MetaSchedule."""

from typing import TYPE_CHECKING

from cwm_jax.tvm_bridge.runtime import deferred

if TYPE_CHECKING:
    from cwm_jax.tvm_bridge.metaschedule.builder import local_builder
    from cwm_jax.tvm_bridge.metaschedule.cost_model import WorldModelCostModel
    from cwm_jax.tvm_bridge.metaschedule.strategy import PlannerStrategy

__all__ = ["PlannerStrategy", "WorldModelCostModel", "local_builder"]

__getattr__ = deferred(
    __name__,
    {
        "PlannerStrategy": "strategy",
        "WorldModelCostModel": "cost_model",
        "local_builder": "builder",
    },
)
