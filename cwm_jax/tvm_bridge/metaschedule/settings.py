"""Settings of a MetaSchedule search."""

import dataclasses

from cwm_jax.tvm_bridge.metaschedule.cost_models import CostModelName
from cwm_jax.tvm_bridge.search_loop import SearchSettings


@dataclasses.dataclass(frozen=True)
class SearchConfig(SearchSettings):
    """Settings of a search of MetaSchedule's.

    Attributes:
        cost_model: Which model ranks.
        timeout: Seconds that one candidate may compile, and run.
        population: Schedules of a generation, planned or evolved.
    """

    cost_model: CostModelName = "world-model"
    timeout: int = 30
    population: int = 512
