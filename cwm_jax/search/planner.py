"""Search in imagination: evolve schedules as arrays, score them by rollouts, build none.

A planner starts from schedules that TVM sampled, keeps their structures, and evolves their
numbers. Only the best few hundred leave it, to be checked and measured by TVM.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from cwm_jax.features.steps import (
    ScheduleGroup,
    StepArrays,
    encode_groups,
    group_schedules,
)
from cwm_jax.records.program import Program
from cwm_jax.records.steps import Step
from cwm_jax.search.moves import Layout, layout_of, mutate, with_numbers

Score = Callable[[StepArrays], Float32[np.ndarray, "candidate"]]
"""Encoded schedules of the planned program -> scores, higher is better."""


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """How much is imagined.

    Attributes:
        population: Schedules of a generation.
        generations: Rounds of moves.
        temperature: Of the choice of parents, in standard deviations of the score.
        structures: At most so many structures survive a generation.
    """

    population: int = 2048
    generations: int = 4
    temperature: float = 0.5
    structures: int = 48


class Plan(NamedTuple):
    """What a planner proposes, best first.

    Attributes:
        schedules: Distinct schedules.
        scores: Their scores.
        imagined: Distinct schedules that were scored.
    """

    schedules: list[tuple[Step, ...]]
    scores: Float32[np.ndarray, "candidate"]
    imagined: int


class _Family(NamedTuple):
    """Schedules of one structure that have been scored, without repetition."""

    example: tuple[Step, ...]
    layout: Layout
    group: ScheduleGroup
    scores: Float32[np.ndarray, "candidate"]


def plan(
    seeds: Sequence[tuple[Step, ...]],
    program: Program,
    score: Score,
    wanted: int,
    config: PlannerConfig,
    rng: np.random.Generator,
) -> Plan:
    """Evolves schedules and returns the best.

    Args:
        seeds: Valid schedules of the program, of as many structures as there are.
        program: The program.
        score: The model, adapted to what is measured.
        wanted: How many schedules to return at most.
        config: Settings.
        rng: Source of all randomness.
    """
    families = _score_groups(
        [
            (seeds[rows[0]], layout_of(group.structure), group.structure, group.numbers)
            for rows, group in group_schedules(seeds)
        ],
        program,
        score,
    )
    for _ in range(config.generations):
        families = sorted(families, key=lambda family: -family.scores.max())
        families = families[: config.structures]
        children = _children(families, config, rng)
        scored = _score_groups(children, program, score)
        families = _merge(families, scored)
    return _best(families, wanted)


_Unscored = tuple[tuple[Step, ...], Layout, tuple, Float[np.ndarray, "candidate number"]]


def _score_groups(parts: Sequence[_Unscored], program: Program, score: Score) -> list[_Family]:
    """Scores all groups in one batch."""
    groups: list[tuple[Int[np.ndarray, "row"], ScheduleGroup]] = []
    start = 0
    for _, _, structure, numbers in parts:
        distinct = np.unique(numbers, axis=0)
        rows = np.arange(start, start + len(distinct), dtype=np.int32)
        groups.append((rows, ScheduleGroup(structure, distinct)))
        start += len(distinct)
    if not start:
        return []
    arrays = encode_groups(groups, program)  # type: ignore[arg-type]
    scores = score(arrays)
    return [
        _Family(example, layout, group, scores[rows])
        for (example, layout, _, _), (rows, group) in zip(parts, groups, strict=True)
    ]


def _children(
    families: Sequence[_Family], config: PlannerConfig, rng: np.random.Generator
) -> list[_Unscored]:
    """Draws parents by score over all structures and moves each once."""
    scores = np.concatenate([family.scores for family in families])
    owner = np.repeat(np.arange(len(families)), [len(family.scores) for family in families])
    place = np.concatenate([np.arange(len(family.scores)) for family in families])
    spread = max(float(scores.std()), 1e-6) * config.temperature
    weight = np.exp((scores - scores.max()) / spread)
    parents = rng.choice(len(scores), size=config.population, p=weight / weight.sum())
    found: list[_Unscored] = []
    for at, family in enumerate(families):
        chosen = place[parents[owner[parents] == at]]
        if len(chosen):
            numbers = mutate(family.layout, family.group.numbers[chosen], rng)
            found.append((family.example, family.layout, family.group.structure, numbers))
    return found


def _merge(old: Sequence[_Family], new: Sequence[_Family]) -> list[_Family]:
    """Joins families of one structure; a schedule counts once."""
    merged = {family.group.structure: family for family in old}
    for family in new:
        known = merged.get(family.group.structure)
        if known is None:
            merged[family.group.structure] = family
            continue
        numbers = np.concatenate([known.group.numbers, family.group.numbers])
        scores = np.concatenate([known.scores, family.scores])
        _, first = np.unique(numbers, axis=0, return_index=True)
        group = ScheduleGroup(known.group.structure, numbers[first])
        merged[family.group.structure] = known._replace(group=group, scores=scores[first])
    return list(merged.values())


def _best(families: Sequence[_Family], wanted: int) -> Plan:
    scores = np.concatenate([family.scores for family in families])
    owner = np.repeat(np.arange(len(families)), [len(family.scores) for family in families])
    place = np.concatenate([np.arange(len(family.scores)) for family in families])
    order = np.argsort(-scores, kind="stable")[:wanted]
    chosen = [(families[int(owner[at])], int(place[at])) for at in order]
    schedules = [with_numbers(family.example, family.group.numbers[row]) for family, row in chosen]
    return Plan(schedules, scores[order], len(scores))
