"""Ansor integration: importing `WorldModelCostModel` loads a TVM that has Ansor."""

from typing import TYPE_CHECKING

from cwm_jax.tvm_bridge.runtime import deferred

if TYPE_CHECKING:
    from cwm_jax.tvm_bridge.ansor.cost_model import WorldModelCostModel

__all__ = ["WorldModelCostModel"]

__getattr__ = deferred(__name__, {"WorldModelCostModel": "cost_model"})
