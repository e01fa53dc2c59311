"""Settings of a search, whichever engine runs it."""

import dataclasses
from pathlib import Path
from typing import Literal

from cwm_jax.ranking.gaussian_process import AdaptationName
from cwm_jax.tuning.tracker import Tracker

SearchName = Literal["evolutionary", "planner"]


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """Settings of a search.

    Attributes:
        trials: Candidates to measure in all, those of a resumed search included.
        round_size: Candidates a round; the model learns between rounds.
        seed: Seed of the search.
        min_repeat_ms: One measurement repeats the program for at least so long.
        cost_model: The model that ranks, one of the engine's `cost_models`.
        search: The engine's evolutionary search, or the planner, which needs the world model.
        adaptation: How measurements correct the world model: not at all, by the mean, or by the
            upper confidence bound.
        confirm: Trials of all that measure the best programs again at the end
            (`cwm_jax.search.confirmation`).
        reference_every: Candidates between two runs of the reference program that says how fast
            the machine is (`cwm_jax.tuning.measurement`); None to measure without.
        tracker: Where devices to measure on are asked for; None for this machine.
        pretrain: Corpus folder that an engine's own model learns from before the search.
        build_timeout: Seconds that one candidate may compile.
        run_timeout: Seconds that one candidate may run; None for the engine's default.
        population: Schedules of a generation, planned or evolved; None for the engine's default.
    """

    trials: int
    round_size: int = 16
    seed: int = 0
    min_repeat_ms: int = 40
    cost_model: str = "world-model"
    search: SearchName = "evolutionary"
    adaptation: AdaptationName = "bound"
    confirm: int = 0
    reference_every: int | None = None
    tracker: Tracker | None = None
    pretrain: Path | None = None
    build_timeout: int = 30
    run_timeout: int | None = None
    population: int | None = None
