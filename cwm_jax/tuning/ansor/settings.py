"""Settings of a search of Ansor's."""

import dataclasses

from cwm_jax.tuning.ansor.cost_models import CostModelName
from cwm_jax.tuning.loop import SearchSettings
from cwm_jax.tvm_bridge.ansor.policies import POPULATION


@dataclasses.dataclass(frozen=True)
class TuningConfig(SearchSettings):
    """Settings of a search of Ansor's.

    Attributes:
        cost_model: Which model ranks.
        build_timeout: Seconds that one candidate may compile.
        run_timeout: Seconds that one candidate may run.
        population: Schedules of a generation, planned or evolved, and of a planner's first sample.
    """

    cost_model: CostModelName = "world-model"
    build_timeout: int = 30
    run_timeout: int = 15
    population: int = POPULATION
