"""Settings of a MetaSchedule search."""

import dataclasses

from cwm_jax.tuning.loop import SearchSettings
from cwm_jax.tuning.metaschedule.cost_models import CostModelName


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
