"""Ranking during a search: the pretrained model, corrected by what the search has measured."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from cwm_jax.features.steps import Groups, group_schedules
from cwm_jax.ranking.adaptation import (
    Adaptation,
    AdaptationConfig,
    adapted_score,
    choose_batch,
    fit_adaptation,
    prior_adaptation,
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
        return self.rank_groups(program, group_schedules(schedules))

    def rank_groups(self, program: Program, groups: Groups) -> Float32[np.ndarray, "schedule"]:
        """Scores schedules of a program that are grouped by structure; higher is better."""
        if not groups:
            return np.zeros(0, np.float32)
        return self.corrected(program, self.scorer.rank_groups(program, groups))

    def corrected(self, program: Program, scores: Scores) -> Float32[np.ndarray, "schedule"]:
        """Returns the scores of a program's schedules, corrected by what is measured of it."""
        correction = self.adaptation(program)
        if correction is None:
            return scores.score
        return adapted_score(correction, scores.score, scores.features)

    def choose(self, program: Program, scores: Scores, size: int) -> list[int]:
        """Chooses schedules of a program to measure together (`choose_batch`).

        Args:
            program: The program.
            scores: What the pretrained model says of the schedules.
            size: How many to choose at most.

        Returns:
            Positions, best first.
        """
        if len(scores.score) == 0:
            return []
        correction = self.adaptation(program) or prior_adaptation(
            scores.score, scores.features, self._config
        )
        return choose_batch(correction, scores.score, scores.features, size)

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
