"""Rollouts in segments of a few steps: schedules that begin alike share the latents between.

What `cwm_jax.model.ensemble.rank_together` does at once is done here segment by segment. Between
two segments the caller says which beginning each candidate of the next one goes on from.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt32

from cwm_jax.features.graph import GraphArrays
from cwm_jax.model.ensemble import EnsembleRanking, each_member, say_together
from cwm_jax.model.inputs import Schedules
from cwm_jax.model.world_model import Beginning

SEGMENT = 8
"""Steps that are rolled out between two looks at what is shared; divides all padded lengths."""

_STEP = 0x9E3779B9


class Beginnings(NamedTuple):
    """Beginnings of schedules, as an ensemble sees them.

    Attributes:
        members: What each member makes of them, along a leading axis.
        total: Sums of the steps' values.
        largest: Maxima of them.
    """

    members: Beginning
    total: Float[Array, "beginning column"]
    largest: Float[Array, "beginning column"]


def fingerprints(schedules: Schedules) -> UInt32[Array, "candidate segment lane"]:
    """Tells beginnings of schedules apart: 64 bits for all steps up to the end of each segment.

    They are of the encoded steps, all that a rollout takes: two schedules may begin with the
    same steps and yet mean another thing by them, for a stage is summed up on its last step.
    """
    words = (schedules.kind, schedules.tag, schedules.stage, schedules.other)
    values = jax.lax.bitcast_convert_type(jnp.asarray(schedules.values), jnp.uint32)
    columns = values.shape[-1]
    factors = jax.random.bits(jax.random.key(0), (2, columns + len(words)), jnp.uint32) | 1
    mixed = _mixed(values * factors[0, :columns])
    first = mixed.sum(-1, dtype=jnp.uint32)
    second = (mixed * factors[1, :columns]).sum(-1, dtype=jnp.uint32)
    for word, factor, weight in zip(words, *factors[:, columns:], strict=True):
        mixed = _mixed(jnp.asarray(word, jnp.uint32) * factor)
        first, second = first + mixed, second + mixed * weight
    steps = values.shape[1]
    position = jnp.arange(1, steps + 1, dtype=jnp.uint32) * jnp.uint32(_STEP)
    live = jnp.arange(steps)[None, :] < schedules.length[:, None]
    of_steps = [_scrambled(lane + position) * live.astype(jnp.uint32) for lane in (first, second)]
    until = jnp.cumsum(jnp.stack(of_steps, -1), axis=1, dtype=jnp.uint32)
    return until[:, SEGMENT - 1 :: SEGMENT]


def _mixed(words: UInt32[Array, "*any"]) -> UInt32[Array, "*any"]:
    """Lets the upper bits of a product reach the lower ones; no two words become one."""
    return words ^ (words >> 15)


def _scrambled(words: UInt32[Array, "*any"]) -> UInt32[Array, "*any"]:
    """The finalizer of MurmurHash3 (Appleby 2011); no two words become one."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)


def begin_together(graphdef: Any, state: Any, graph: GraphArrays, columns: int) -> Beginnings:
    """Returns the one beginning without steps.

    Args:
        graphdef: Of the ensemble.
        state: Of the ensemble.
        graph: As for `WorldModel.rank`.
        columns: Of the steps' values.
    """
    members = each_member(lambda member: nnx.merge(graphdef, member).begin(graph), state)
    return Beginnings(members, jnp.zeros((1, columns)), jnp.full((1, columns), -jnp.inf))


def go_on_together(
    graphdef: Any,
    state: Any,
    beginnings: Beginnings,
    parent: Int[Array, "candidate"],
    schedules: Schedules,
    hardware: Float[Array, "column"],
) -> Beginnings:
    """Applies the next steps to some of the beginnings.

    Args:
        graphdef: Of the ensemble.
        state: Of the ensemble.
        beginnings: So far.
        parent: Which of them each candidate goes on from.
        schedules: The candidates' next steps, and how many.
        hardware: As for `WorldModel.rank`.
    """

    def go_on(member: Any, beginning: Beginning) -> Beginning:
        return nnx.merge(graphdef, member).go_on(beginning, schedules, hardware)

    taken = jax.tree.map(lambda leaf: leaf[:, parent], beginnings.members)
    values = jnp.asarray(schedules.values)
    return Beginnings(
        each_member(go_on, state, taken),
        beginnings.total[parent] + values.sum(1),
        jnp.maximum(beginnings.largest[parent], values.max(1)),
    )


def end_together(
    graphdef: Any,
    state: Any,
    graph: GraphArrays,
    initial: Beginnings,
    ended: Beginnings,
    row: Int[Array, "candidate"],
    hardware: Float[Array, "column"],
) -> EnsembleRanking:
    """Ranks candidates whose steps are all applied.

    Args:
        graphdef: Of the ensemble.
        state: Of the ensemble.
        graph: As for `WorldModel.rank`.
        initial: What `begin_together` returned.
        ended: Distinct schedules.
        row: Which of them each candidate is.
        hardware: As for `WorldModel.rank`.
    """

    def end(member: Any, first: Beginning, last: Beginning) -> tuple[Array, Array]:
        ranking = nnx.merge(graphdef, member).end(graph, first, last, hardware)
        return ranking.score, ranking.features

    scores, features = each_member(end, state, initial.members, ended.members)
    ranked = say_together(scores, features, ended.total, ended.largest)
    return jax.tree.map(lambda leaf: leaf[row], ranked)
