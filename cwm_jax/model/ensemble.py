"""An ensemble: models of one architecture whose parameters differ, ranked together.

Where members disagree, the data did not say: that is the model's uncertainty.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cwm_jax.features.graph import GraphArrays
from cwm_jax.model.inputs import Schedules


class EnsembleRanking(NamedTuple):
    """What the members say of each candidate.

    Attributes:
        score: Mean of the members' scores; higher is faster, comparable within one workload.
        members: Scores of each member. A member's scores may be shifted as a whole.
        features: The members' head features side by side.
        actions: Sums and maxima over its steps of what they say: what is known of a candidate
            without a model.
    """

    score: Float[Array, "candidate"]
    members: Float[Array, "candidate member"]
    features: Float[Array, "candidate feature"]
    actions: Float[Array, "candidate sum"]


class Ensemble:
    """Models of one architecture, their parameters stacked along a leading axis.

    Attributes:
        graphdef: The architecture.
        state: The stacked parameters.
    """

    def __init__(self, graphdef: Any, state: Any) -> None:
        self.graphdef = graphdef
        self.state = state

    @classmethod
    def of(cls, models: Sequence[nnx.Module]) -> "Ensemble":
        """Stacks models of one architecture."""
        graphs, states = zip(*(nnx.split(model) for model in models), strict=True)
        return cls(graphs[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))

    def __len__(self) -> int:
        return jax.tree.leaves(self.state)[0].shape[0]

    def models(self) -> list[Any]:
        """Returns each model by itself."""
        return [
            nnx.merge(self.graphdef, jax.tree.map(lambda leaf, at=at: leaf[at], self.state))
            for at in range(len(self))
        ]


def rank_together(
    graphdef: Any,
    state: Any,
    graph: GraphArrays,
    schedules: Schedules,
    hardware: Float[Array, "column"],
) -> EnsembleRanking:
    """Ranks candidates of one program by all members.

    Args:
        graphdef: Of the ensemble.
        state: Of the ensemble.
        graph: As for `WorldModel.rank`.
        schedules: As for `WorldModel.rank`.
        hardware: As for `WorldModel.rank`.
    """

    def rank(member: Any) -> tuple[Array, Array]:
        ranking = nnx.merge(graphdef, member).rank(graph, schedules, hardware)
        return ranking.score, ranking.features

    scores, features = each_member(rank, state)
    values = jnp.asarray(schedules.values)
    return say_together(scores, features, values.sum(1), values.max(1))


def say_together(
    scores: Float[Array, "member candidate"],
    features: Float[Array, "member candidate head"],
    total: Float[Array, "candidate column"],
    largest: Float[Array, "candidate column"],
) -> EnsembleRanking:
    """Puts together what each member says.

    Args:
        scores: As `WorldModel.rank` has them.
        features: Likewise.
        total: Sums of the steps' values.
        largest: Maxima of them.
    """
    side_by_side = features.swapaxes(0, 1).reshape(features.shape[1], -1)
    actions = jnp.concatenate([total, largest], -1)
    return EnsembleRanking(scores.mean(0), scores.T, side_by_side, actions)


def each_member(function: Callable[..., Any], *trees: Any) -> Any:
    """Applies a function to what each member has, and stacks what it returns.

    A CPU takes one member after another: its product of two matrices is faster than a batch of
    products (a third of the time of scoring).

    Args:
        function: Of one member's part of each tree.
        trees: Arrays with a leading axis of members.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda parts: function(*parts), trees)
    return jax.vmap(function)(*trees)


def parameter_count(ensemble: Ensemble) -> int:
    """Returns how many numbers training adjusts, in all members together."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(ensemble.state))
