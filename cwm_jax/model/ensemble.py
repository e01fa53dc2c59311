"""An ensemble: models of one architecture whose parameters differ, ranked together.

Where the members disagree, the training data did not decide: that is the model's uncertainty.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cwm_jax.features.graph import GraphArrays
from cwm_jax.model.world_model import ModelConfig, Schedules, create_model


class EnsembleRanking(NamedTuple):
    """An ensemble's opinion of each candidate.

    Attributes:
        score: Mean of the members' scores; higher is faster, comparable within one workload.
        members: Scores of each member. A member's scores may be shifted as a whole.
        features: The members' head features side by side.
        actions: Sums and maxima of the values of its steps: what is known of a candidate without
            a model.
    """

    score: Float[Array, "candidate"]
    members: Float[Array, "candidate member"]
    features: Float[Array, "candidate feature"]
    actions: Float[Array, "candidate sum"]


@partial(jax.tree_util.register_dataclass, data_fields=["state"], meta_fields=["graphdef"])
@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Models of one architecture, their parameters stacked along a leading axis.

    It is a pytree of its parameters, so that `jax.jit`, `jax.grad` and `jax.tree.map` take it as
    it is. Mapped along the leading axis, as by `each_member`, it is one of its members, which
    `merge` returns as a module.

    Attributes:
        graphdef: The architecture.
        state: The stacked parameters.

    Examples:
        >>> ensemble = Ensemble.create(ModelConfig(members=2), seed=0)
        >>> len(ensemble), ensemble.parameter_count > 300_000
        (2, True)
    """

    graphdef: Any
    state: Any

    @classmethod
    def of(cls, models: Sequence[nnx.Module]) -> "Ensemble":
        """Stacks models of one architecture."""
        graphs, states = zip(*(nnx.split(model) for model in models), strict=True)
        return cls(graphs[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))

    @classmethod
    def create(cls, config: ModelConfig, seed: int) -> "Ensemble":
        """Returns world models with fresh parameters, as many as `config` has members."""
        return cls.of([create_model(config, seed + at) for at in range(config.members)])

    def __len__(self) -> int:
        return jax.tree.leaves(self.state)[0].shape[0]

    @property
    def parameter_count(self) -> int:
        """How many numbers training adjusts, in all members together."""
        return sum(int(leaf.size) for leaf in jax.tree.leaves(self.state))

    def merge(self) -> Any:
        """Returns the module of a member; for an ensemble that is mapped over its members."""
        return nnx.merge(self.graphdef, self.state)

    def models(self) -> list[Any]:
        """Returns each member as a module."""
        return [jax.tree.map(lambda leaf, at=at: leaf[at], self).merge() for at in range(len(self))]

    def rank(
        self, graph: GraphArrays, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> EnsembleRanking:
        """Ranks candidates of one program by all members; takes what `WorldModel.rank` takes."""

        def rank_by(member: "Ensemble") -> tuple[Array, Array]:
            ranking = member.merge().rank(graph, schedules, hardware)
            return ranking.score, ranking.features

        scores, features = each_member(rank_by, self)
        side_by_side = features.swapaxes(0, 1).reshape(features.shape[1], -1)
        values = jnp.asarray(schedules.values)
        actions = jnp.concatenate([values.sum(1), values.max(1)], -1)
        return EnsembleRanking(scores.mean(0), scores.T, side_by_side, actions)


def each_member(function: Callable[..., Any], *trees: Any) -> Any:
    """Applies a function to each member's part of some trees, and stacks what it returns.

    A CPU takes one member after another: its product of two matrices is faster than a batch of
    products (a third of the time of scoring).

    Args:
        function: Takes one member's part of each tree.
        trees: Arrays with a leading axis of members, such as an `Ensemble`.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda parts: function(*parts), trees)
    return jax.vmap(function)(*trees)
