"""Settings of a search of Ansor's."""

import dataclasses
from typing import Literal

from cwm_jax.tuning.loop import SearchSettings

CostModelName = Literal["world-model", "xgboost", "random"]

POPULATION = 2048
"""Of a generation, as Ansor has it."""


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
