"""Settings of a search of Ansor's."""

import dataclasses
from pathlib import Path

from cwm_jax.tvm_bridge.ansor.cost_models import CostModelName
from cwm_jax.tvm_bridge.ansor.remote import Tracker
from cwm_jax.tvm_bridge.search_loop import SearchSettings


@dataclasses.dataclass(frozen=True)
class TuningConfig(SearchSettings):
    """Settings of a search of Ansor's.

    Attributes:
        cost_model: Which model ranks.
        build_timeout: Seconds that one candidate may compile.
        run_timeout: Seconds that one candidate may run.
        tracker: Where devices to measure on are asked for; None for this machine.
        pretrain: Corpus folder that XGBoost learns from before the search.
    """

    cost_model: CostModelName = "world-model"
    build_timeout: int = 30
    run_timeout: int = 15
    tracker: Tracker | None = None
    pretrain: Path | None = None
