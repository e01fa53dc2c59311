"""Searches in latent space: evolves schedules as arrays, scores them by rollouts, builds none.

A planner starts from schedules that TVM sampled, keeps their structures, and evolves their
numbers. Only the best few hundred leave it, to be checked and measured by TVM.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from cwm_jax.features.batch import ScheduleGroup, StepArrays, encode_groups, group_schedules
from cwm_jax.features.step_features import StepShape
from cwm_jax.ranking.scorer import Scores, join_scores, no_scores, take_scores
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.steps import Step
from cwm_jax.search.moves import Layout, graft, layout_of, mutate, same_shape, with_numbers


def draw_parents(
    scores: Float32[np.ndarray, "candidate"],
    count: int,
    temperature: float,
    rng: np.random.Generator,
) -> Int[np.ndarray, "parent"]:
    """Draws positions with probabilities proportional to the exponential of the score.

    Args:
        scores: Higher is better; what has minus infinity is never drawn. One at least is finite.
        count: How many to draw; one may come more than once.
        temperature: Temperature in standard deviations of the score.
        rng: Source of the draw.
    """
    finite = scores[np.isfinite(scores)]
    spread = max(float(finite.std()), 1e-6) * temperature
    weight = np.exp((scores - finite.max()) / spread)
    return rng.choice(len(scores), size=count, p=weight / weight.sum())


Rank = Callable[[StepArrays], Scores]
"""Takes encoded schedules of the planned program and returns the pretrained model's scores."""

Correct = Callable[[Scores], Float32[np.ndarray, "candidate"]]
"""What the pretrained model says -> scores corrected by what is measured, higher is better."""


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Sizes of the search in latent space.

    Attributes:
        population: Schedules of a generation.
        generations: Generations of a plan.
        temperature: Temperature of the choice of parents, in standard deviations of the score.
        structures: The moves of a generation touch at most so many structures.
        crossed: Share of a generation that mixes two parents of one structure.
        grafted: Share that tries a parent's tile sizes in another structure.
        remembered: Schedules that are kept from one plan to the next.
    """

    population: int = 2048
    generations: int = 4
    temperature: float = 0.5
    structures: int = 48
    crossed: float = 0.1
    grafted: float = 0.2
    remembered: int = 16384


class Plan(NamedTuple):
    """Schedules that a planner proposes, best first.

    Attributes:
        schedules: Distinct schedules.
        ranked: The pretrained model's scores of each.
        imagined: Schedules that were scored for the first time.
    """

    schedules: list[tuple[Step, ...]]
    ranked: Scores
    imagined: int


_Numbers = Float[np.ndarray, "candidate number"]
_Part = tuple[tuple[Step, ...], tuple[StepShape, ...], _Numbers]
"""An example, its structure, and the numbers of schedules like it."""


@dataclasses.dataclass
class _Family:
    """Schedules of one structure that have been scored, each once.

    Attributes:
        example: One of them.
        layout: Meaning of their numbers.
        numbers: Numbers of each candidate.
        ranked: The pretrained model's scores of each.
        scores: The same, corrected.
    """

    example: tuple[Step, ...]
    layout: Layout
    numbers: _Numbers
    ranked: Scores
    scores: Float32[np.ndarray, "candidate"]


class Planner:
    """Evolves the schedules of one program, from one plan to the next.

    The pretrained scores of a schedule are kept: a later plan, when more is measured,
    only corrects it anew.

    Args:
        graph: Compute graph of the workload.
        rank: The pretrained model.
        config: Settings.
        rng: Source of all randomness.
    """

    def __init__(
        self, graph: ComputeGraph, rank: Rank, config: PlannerConfig, rng: np.random.Generator
    ) -> None:
        self.config = config
        self._graph = graph
        self._rank = rank
        self._rng = rng
        self._families: dict[tuple[StepShape, ...], _Family] = {}
        # By structure: the numbers of its family's schedules.
        self._known: dict[tuple[StepShape, ...], set[bytes]] = {}
        self._imagined = 0

    def add(self, schedules: Sequence[tuple[Step, ...]]) -> None:
        """Adds valid schedules of the workload as parents."""
        self._imagine(
            [
                (schedules[rows[0]], group.structure, group.numbers)
                for rows, group in group_schedules(schedules)
            ]
        )

    def plan(self, correct: Correct, wanted: int) -> Plan:
        """Evolves all schedules taken in and imagined so far, and returns the best.

        Args:
            correct: Corrects scores by what is measured.
            wanted: How many schedules to return at most.
        """
        if not self._families:
            return Plan([], no_scores(), 0)
        self._correct(correct, list(self._families.values()))
        for _ in range(self.config.generations):
            self._correct(correct, self._imagine(self._children()))
        plan = self._best(wanted)
        self._imagined = 0
        self._forget()
        return plan

    def _imagine(self, parts: Sequence[_Part]) -> list[_Family]:
        """Ranks what is new, all in one batch; returns the families that have grown."""
        fresh_parts: list[_Part] = []
        for example, structure, numbers in parts:
            fresh = _unseen(numbers, self._known.setdefault(structure, set()))
            if len(fresh):
                fresh_parts.append((example, structure, fresh))
        if not fresh_parts:
            return []
        ends = np.cumsum([len(numbers) for _, _, numbers in fresh_parts])
        rows = np.split(np.arange(ends[-1], dtype=np.int32), ends[:-1])
        groups = [
            (at, ScheduleGroup(structure, numbers))
            for at, (_, structure, numbers) in zip(rows, fresh_parts, strict=True)
        ]
        ranked = self._rank(encode_groups(groups, self._graph))
        self._imagined += int(ends[-1])
        for at, (example, structure, numbers) in zip(rows, fresh_parts, strict=True):
            part = take_scores(ranked, at)
            family = self._families.get(structure)
            if family is None:
                family = _Family(example, layout_of(structure), numbers, part, part.score)
                self._families[structure] = family
            else:
                family.numbers = np.concatenate([family.numbers, numbers])
                family.ranked = join_scores([family.ranked, part])
                family.scores = np.concatenate([family.scores, part.score])
        return [self._families[structure] for _, structure, _ in fresh_parts]

    def _correct(self, correct: Correct, families: Sequence[_Family]) -> None:
        """Corrects all schedules of some families, in one batch."""
        if not families:
            return
        scores = correct(join_scores([family.ranked for family in families]))
        ends = np.cumsum([len(family.scores) for family in families])[:-1]
        for family, part in zip(families, np.split(scores, ends), strict=True):
            family.scores = part

    def _children(self) -> list[_Part]:
        """Draws parents by score over the best structures, and moves each once."""
        ordered = sorted(self._families.items(), key=lambda pair: -pair[1].scores.max())
        chosen = ordered[: self.config.structures]
        scores, owner, place = _flat([family for _, family in chosen])
        config = self.config
        parents = draw_parents(scores, config.population, config.temperature, self._rng)
        families = [family for _, family in chosen]
        children: list[list[_Numbers]] = [[] for _ in families]
        for at, family in enumerate(families):
            numbers = family.numbers[place[parents[owner[parents] == at]]]
            kind = self._rng.random(len(numbers))
            crossed = kind < self.config.crossed
            grafted = (kind >= 1 - self.config.grafted) & ~crossed
            children[at].append(mutate(family.layout, numbers[~crossed & ~grafted], self._rng))
            mates = self._rng.permutation(numbers)[: crossed.sum()]
            children[at].append(self._crossed(family.layout, numbers[crossed], mates))
            self._graft(family.layout, numbers[grafted], families, children)
        return [
            (family.example, structure, np.concatenate(parts))
            for (structure, family), parts in zip(chosen, children, strict=True)
        ]

    def _crossed(self, layout: Layout, numbers: _Numbers, mates: _Numbers) -> _Numbers:
        """Takes about half of the splits from a mate."""
        parts = len(layout.splits) + len(layout.unrolls)
        taken = self._rng.random((len(numbers), parts)) < 0.5
        return graft(layout, numbers, layout, mates, taken)

    def _graft(
        self,
        layout: Layout,
        donors: _Numbers,
        families: Sequence[_Family],
        children: Sequence[list[_Numbers]],
    ) -> None:
        """Tries the numbers of donors in families of the same shape, drawn at random."""
        fitting = [at for at, family in enumerate(families) if same_shape(family.layout, layout)]
        targets = self._rng.choice(fitting, size=len(donors))
        for at in np.unique(targets):
            family, given = families[at], donors[targets == at]
            hosts = family.numbers[self._rng.integers(len(family.numbers), size=len(given))]
            parts = len(layout.splits) + len(layout.unrolls)
            taken = np.ones((len(given), parts), bool)
            children[at].append(graft(family.layout, hosts, layout, given, taken))

    def _best(self, wanted: int) -> Plan:
        families = list(self._families.values())
        scores, owner, place = _flat(families)
        order = np.argsort(-scores, kind="stable")[:wanted]
        chosen = [(families[owner[at]], place[at]) for at in order]
        schedules = [with_numbers(family.example, family.numbers[row]) for family, row in chosen]
        ranked = join_scores([take_scores(family.ranked, [int(row)]) for family, row in chosen])
        return Plan(schedules, ranked, self._imagined)

    def _forget(self) -> None:
        """Keeps the best schedules only; the others may be imagined again."""
        scores, _, _ = _flat(list(self._families.values()))
        if len(scores) <= self.config.remembered:
            return
        least = np.partition(scores, -self.config.remembered)[-self.config.remembered]
        for structure, family in list(self._families.items()):
            kept = family.scores >= least
            if not kept.any():
                del self._families[structure], self._known[structure]
                continue
            family.numbers = family.numbers[kept]
            family.ranked = take_scores(family.ranked, kept)
            family.scores = family.scores[kept]
            self._known[structure] = {row.tobytes() for row in family.numbers}


def _unseen(numbers: _Numbers, known: set[bytes]) -> _Numbers:
    """Returns the rows that are not known, each once, and makes them known."""
    fresh: list[int] = []
    for at, row in enumerate(numbers):
        name = row.tobytes()
        if name not in known:
            known.add(name)
            fresh.append(at)
    return numbers[fresh]


def _flat(
    families: Sequence[_Family],
) -> tuple[
    Float32[np.ndarray, "candidate"], Int[np.ndarray, "candidate"], Int[np.ndarray, "candidate"]
]:
    """Scores of all schedules, and of each the position of its family and its row there."""
    sizes = [len(family.scores) for family in families]
    return (
        np.concatenate([family.scores for family in families]),
        np.repeat(np.arange(len(families)), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
    )
