"""Ranking during a search: the pretrained model, corrected by what the search has measured."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32

from cwm_jax.features.batch import Groups
from cwm_jax.ranking.gaussian_process import (
    Adaptation,
    AdaptationConfig,
    adapted_score,
    choose_batch,
    fit_adaptation,
    prior_adaptation,
)
from cwm_jax.ranking.scorer import Scorer, Scores, take_scores
from cwm_jax.ranking.trust import (
    DISTRUSTED,
    LEAST_DRAWN,
    earns_trust,
    log_throughput,
    most_agreeing,
)
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.record import latency_of_costs
from cwm_jax.records.steps import Step

Name = TypeVar("Name", bound=Hashable)
"""A schedule, or bytes that identify it."""


class KnownScores(Generic[Name]):
    """Scores of the schedules of one program by one model.

    A search asks repeatedly about the schedules that it keeps from one generation to the next.
    """

    def __init__(self) -> None:
        self._rows: dict[Name, int] = {}
        self._scores: Scores | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, schedule: Name) -> bool:
        return schedule in self._rows

    def of(self, schedules: Sequence[Name], rank: Callable[[list[Name]], Scores]) -> Scores:
        """Returns the scores of schedules in their order, with those of new ones made.

        Args:
            schedules: At least one.
            rank: Scores schedules that are not known yet, at least one.

        Raises:
            RecordError: As `rank` does; none of the new ones is known then.
        """
        known = len(self._rows)
        # A schedule's hash is the dearest part of a look-up: it is taken once.
        rows = [self._rows.setdefault(schedule, len(self._rows)) for schedule in schedules]
        fresh = list(islice(self._rows, known, None))
        if fresh:
            try:
                found = rank(fresh)
            except Exception:
                for schedule in fresh:
                    del self._rows[schedule]
                raise
            self._scores = _with_room(self._scores, found, known)
            for array, rows_found in zip(self._scores, found, strict=True):
                array[known : known + len(fresh)] = rows_found
        assert self._scores is not None
        return take_scores(self._scores, rows)


def _with_room(scores: Scores | None, found: Scores, known: int) -> Scores:
    """Scores with rows for more behind those that are known; their number doubles when it grows."""
    needed = known + len(found.score)
    if scores is not None and len(scores.score) >= needed:
        return scores
    larger = Scores(*(np.empty((2 * needed, *part.shape[1:]), part.dtype) for part in found))
    for array, former in zip(larger, scores or (), strict=scores is not None):
        array[:known] = former[:known]
    return larger


Schedule = tuple[Step, ...]

_REMEMBERED = 32768
"""Schedules of a workload whose pretrained scores are kept."""


class TrustWarning(UserWarning):
    """A pretrained model ranks a workload no better than chance."""


class _Standing(NamedTuple):
    """The pretrained model that a workload uses, and whether it has proved itself.

    Attributes:
        scorer: The model; None where none is trusted.
        since: Measurements of the workload when it began to choose.
        proven: Whether its choices were faster than random draws.
        left: Models to try next; None before any was asked.
    """

    scorer: Scorer | None
    since: int
    proven: bool
    left: Sequence[Scorer] | None = None


class OnlineRanker:
    """Ranks schedules of any number of programs, each by its own measurements.

    Args:
        scorer: The pretrained model.
        config: How measurements of a workload correct its ranking.
        alternatives: Loads models to try where this one ranks a workload no better than chance,
            those for likelier devices first.

    Attributes:
        scorer: The pretrained model.
    """

    def __init__(
        self,
        scorer: Scorer,
        config: AdaptationConfig,
        alternatives: Callable[[], Sequence[Scorer]] = tuple,
    ) -> None:
        self.scorer = scorer
        self._config = config
        self._alternatives = cache(alternatives)
        self._schedules: dict[str, list[Schedule]] = defaultdict(list)
        self._latencies: dict[str, list[float]] = defaultdict(list)
        self._drawn: dict[str, set[Schedule]] = defaultdict(set)
        self._standing: dict[str, _Standing] = {}
        self._ranked: dict[str, KnownScores[Schedule]] = {}
        self._ranked_names: dict[str, KnownScores[bytes]] = {}
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
        """Adds a measurement; the next ranking of its workload uses it.

        Args:
            workload_key: Key of the workload.
            schedule: The schedule that was measured.
            latency: Latency in seconds; infinity if it failed. Impossible ones count as failed.
        """
        self._schedules[workload_key].append(schedule)
        self._latencies[workload_key].append(latency_of_costs([latency]))

    def spend(self, graph: ComputeGraph, size: int) -> tuple[int, int]:
        """Splits the next measurements of a program between chosen and random candidates.

        A first round is shorter, one half of it random draws: it tells whether the pretrained
        ranking can be trusted on the workload. Where none can, some of every round is drawn from
        what the ranking does not lead to.

        Args:
            graph: Compute graph of the workload.
            size: Measurements of a round; short ones hold no draws.

        Returns:
            How many to choose, and how many to draw.
        """
        self._judge(graph)
        drawn = int(self._config.drawn * size)
        standing = self._standing.get(graph.workload_key)
        if not drawn or (standing and standing.scorer):
            return size, 0
        if standing:
            return size - drawn, drawn
        drawn = max(drawn, LEAST_DRAWN)
        return (drawn, drawn) if 2 * drawn <= size else (size, 0)

    def record_drawn(self, workload_key: str, schedules: Sequence[Schedule]) -> None:
        """Marks schedules as drawn at random; call it before they are measured."""
        self._drawn[workload_key].update(schedules)

    def trusted(self, workload_key: str) -> bool | None:
        """Returns whether a pretrained ranking is trusted on a workload; None while undecided."""
        standing = self._standing.get(workload_key)
        if standing is None or (standing.scorer and not standing.proven):
            return None
        return standing.scorer is not None

    def scorer_of(self, workload_key: str) -> Scorer:
        """Returns the pretrained model that a workload uses.

        Where none is trusted it is the given one, of which only `Scores.actions` is then used.
        """
        standing = self._standing.get(workload_key)
        return (standing.scorer if standing else None) or self.scorer

    def _judge(self, graph: ComputeGraph) -> None:
        """Judges the model in use once what it chose is measured beside random draws."""
        key = graph.workload_key
        drawn, schedules = self._drawn[key], self._schedules[key]
        standing = self._standing.get(key) or _Standing(self.scorer, 0, proven=False)
        if standing.proven or standing.scorer is None or not drawn:
            return
        latencies = self._latencies[key]
        measured = list(zip(schedules, latencies, strict=True))
        random = [latency for schedule, latency in measured if schedule in drawn]
        chosen = [
            latency for schedule, latency in measured[standing.since :] if schedule not in drawn
        ]
        if not random or not chosen:
            return
        if earns_trust(chosen, random):
            self._standing[key] = standing._replace(proven=True)
            return
        left = self._alternatives() if standing.left is None else standing.left
        scores = [scorer.rank_schedules(graph, schedules).score for scorer in left]
        best = most_agreeing(scores, latencies)
        found = None if best is None else left[best]
        self._standing[key] = _Standing(
            found, len(measured), proven=False, left=[other for other in left if other is not found]
        )
        self._ranked.pop(key, None)
        self._ranked_names.pop(key, None)
        self._fitted.pop(key, None)
        then = f"that for {found.hardware.name} is tried next" if found else "none agrees better"
        warnings.warn(
            f"{key[:80]}: what the world model for {standing.scorer.hardware.name} chose was no "
            f"faster than random draws; of the shipped ones, {then}",
            TrustWarning,
            stacklevel=3,
        )

    def rank(
        self, graph: ComputeGraph, schedules: Sequence[Schedule]
    ) -> Float32[np.ndarray, "schedule"]:
        """Scores schedules of a workload; higher is better."""
        if not schedules:
            return np.zeros(0, np.float32)
        self._judge(graph)
        return self.corrected(graph, self.pretrained_scores(graph, schedules))

    def rank_named(
        self,
        graph: ComputeGraph,
        names: Sequence[bytes],
        groups_of: Callable[[list[bytes]], Groups],
    ) -> Float32[np.ndarray, "schedule"]:
        """Scores schedules given in the engine's own serialised form, as `rank` does.

        Bytes, unlike schedules, cost the garbage collector nothing while they are kept.

        Args:
            graph: Compute graph of the workload.
            names: Each identifies a schedule of the workload.
            groups_of: Parses names that were not ranked before, and groups their schedules.
        """
        if not names:
            return np.zeros(0, np.float32)
        self._judge(graph)
        scorer = self.scorer_of(graph.workload_key)
        known = _remembering(self._ranked_names, graph.workload_key, len(names))
        scores = known.of(names, lambda fresh: scorer.rank_groups(graph, groups_of(fresh)))
        return self.corrected(graph, scores)

    def unknown_names(self, graph: ComputeGraph, names: Sequence[bytes]) -> list[bytes]:
        """Returns the names, without duplicates, that `rank_named` would have to parse."""
        known = self._ranked_names.get(graph.workload_key)
        return [name for name in dict.fromkeys(names) if known is None or name not in known]

    def pretrained_scores(self, graph: ComputeGraph, schedules: Sequence[Schedule]) -> Scores:
        """Returns the pretrained model's scores of schedules; each is ranked only once.

        Args:
            graph: Compute graph of the workload.
            schedules: At least one.
        """
        scorer = self.scorer_of(graph.workload_key)
        known = _remembering(self._ranked, graph.workload_key, len(schedules))
        return known.of(schedules, lambda fresh: scorer.rank_schedules(graph, fresh))

    def rank_groups(self, graph: ComputeGraph, groups: Groups) -> Float32[np.ndarray, "schedule"]:
        """Scores schedules of a workload that are grouped by structure; higher is better."""
        if not groups:
            return np.zeros(0, np.float32)
        self._judge(graph)
        scorer = self.scorer_of(graph.workload_key)
        return self.corrected(graph, scorer.rank_groups(graph, groups))

    def corrected(self, graph: ComputeGraph, scores: Scores) -> Float32[np.ndarray, "schedule"]:
        """Returns the scores of a program's schedules, corrected by its measurements."""
        correction = self.adaptation(graph)
        if correction is None:
            return scores.score
        return adapted_score(correction, scores.score, self._regressed(graph.workload_key, scores))

    def choose(self, graph: ComputeGraph, scores: Scores, size: int) -> list[int]:
        """Chooses schedules of a program to measure together (`choose_batch`).

        Args:
            graph: Compute graph of the workload.
            scores: The pretrained model's scores of the schedules.
            size: How many to choose at most.

        Returns:
            Positions, best first.
        """
        if len(scores.score) == 0:
            return []
        features = self._regressed(graph.workload_key, scores)
        correction = self.adaptation(graph) or prior_adaptation(
            scores.score, features, self._config
        )
        return choose_batch(correction, scores.score, features, size)

    def choose_schedules(
        self, graph: ComputeGraph, schedules: Sequence[Schedule], size: int
    ) -> list[int]:
        """Scores schedules, then chooses among them as `choose` does."""
        if not schedules:
            return []
        return self.choose(graph, self.pretrained_scores(graph, schedules), size)

    def adaptation(self, graph: ComputeGraph) -> Adaptation | None:
        """Returns the correction fitted to a program's measurements; None before there are any."""
        key = graph.workload_key
        latencies = np.array(self._latencies[key])
        if not np.isfinite(latencies).any():
            return None
        known = self._fitted.get(key)
        if known is None or known[0] != len(latencies):
            ranked = self.pretrained_scores(graph, self._schedules[key])
            throughput, config = latencies.min() / latencies, self._config
            if self.trusted(key) is False:
                throughput, config = log_throughput(throughput), DISTRUSTED
            features = self._regressed(key, ranked)
            fitted = fit_adaptation(ranked.score, features, throughput, config)
            known = self._fitted[key] = (len(latencies), fitted)
        return known[1]

    def _regressed(
        self, workload_key: str, scores: Scores
    ) -> Float32[np.ndarray, "schedule feature"]:
        """Returns the correction's inputs: no features of a model that is distrusted."""
        return scores.actions if self.trusted(workload_key) is False else scores.features


def _remembering(
    ranked: dict[str, KnownScores[Name]], workload_key: str, count: int
) -> KnownScores[Name]:
    """Returns the known scores of a workload, forgotten first if `count` more would be too many."""
    known = ranked.get(workload_key)
    if known is None or len(known) + count > _REMEMBERED:
        known = ranked[workload_key] = KnownScores()
    return known
