"""Ranking during a search: the pretrained model, corrected by what the search has measured."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from cwm_jax.features.program import encode_program
from cwm_jax.features.steps import StepArrays
from cwm_jax.ranking.adaptation import (
    Adaptation,
    AdaptationConfig,
    adapted_score,
    fit_adaptation,
)
from cwm_jax.ranking.scorer import Scorer, Scores
from cwm_jax.records.program import Program
from cwm_jax.records.steps import Step

Schedule = tuple[Step, ...]


class OnlineRanker:
    """Ranks schedules of any number of programs, each by its own measurements.

    Args:
        scorer: The pretrained model.
        config: How measurements of a workload correct its ranking.
    """

    def __init__(self, scorer: Scorer, config: AdaptationConfig) -> None:
        self.scorer = scorer
        self._config = config
        self._schedules: dict[str, list[Schedule]] = defaultdict(list)
        self._latencies: dict[str, list[float]] = defaultdict(list)
        # By workload: how many measurements it was fitted to, and the correction.
        self._fitted: dict[str, tuple[int, Adaptation | None]] = {}

    @property
    def measured(self) -> dict[str, list[tuple[Schedule, float]]]:
        """Schedules and latencies in seconds, by workload key; infinity for failures."""
        return {
            key: list(zip(schedules, self._latencies[key], strict=True))
            for key, schedules in self._schedules.items()
        }

    def learn(self, workload_key: str, schedule: Schedule, latency: float) -> None:
        """Takes in a measurement; the next ranking of its workload uses it.

        Args:
            workload_key: Of the program.
            schedule: What was measured.
            latency: In seconds; infinity if it failed.
        """
        self._schedules[workload_key].append(schedule)
        self._latencies[workload_key].append(latency)

    def rank(
        self, program: Program, schedules: Sequence[Schedule]
    ) -> Float32[np.ndarray, "schedule"]:
        """Scores schedules of a program; higher is better."""
        if not schedules:
            return np.zeros(0, np.float32)
        return self._adapted(program, self.scorer.rank_schedules(program, schedules))

    def rank_arrays(self, program: Program, steps: StepArrays) -> Float32[np.ndarray, "schedule"]:
        """Scores encoded schedules of a program; higher is better."""
        encoded = encode_program(program, steps.slots)
        return self._adapted(program, self.scorer.rank_arrays(encoded, steps))

    def adaptation(self, program: Program) -> Adaptation | None:
        """Returns the correction by what is measured of a program; None before there is any."""
        key = program.workload_key
        latencies = np.array(self._latencies[key])
        if not np.isfinite(latencies).any():
            return None
        known = self._fitted.get(key)
        if known is None or known[0] != len(latencies):
            ranked = self.scorer.rank_schedules(program, self._schedules[key])
            throughput = latencies.min() / latencies
            fitted = fit_adaptation(ranked.score, ranked.features, throughput, self._config)
            known = self._fitted[key] = (len(latencies), fitted)
        return known[1]

    def _adapted(self, program: Program, scores: Scores) -> Float32[np.ndarray, "schedule"]:
        correction = self.adaptation(program)
        if correction is None:
            return scores.score
        return adapted_score(correction, scores.score, scores.features)
