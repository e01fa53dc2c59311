"""The world model: encode once, roll out, rank."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from cwm_jax.features.graph import STAGE_COLUMNS, GraphArrays
from cwm_jax.model.config import ModelConfig
from cwm_jax.model.encoders import GraphEncoder, HardwareEncoder, StepEncoder
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.inputs import Schedules
from cwm_jax.model.transition import Action, Latent, Transition, rollout

POOLED = 4
"""Latent vectors that sum up a terminal latent (`WorldModel.pool_latent`)."""

_WORK = STAGE_COLUMNS.index("log_points")


class Beginning(NamedTuple):
    """Candidates after some of their steps: all that ranking them takes of these steps.

    Attributes:
        latent: The latent programs.
        addressed: 1 for slots that a step has changed.
        total: Sums of the actions.
        largest: Maxima of the actions, at least 0.
    """

    latent: Latent
    addressed: Float[Array, "candidate slot"]
    total: Float[Array, "candidate action"]
    largest: Float[Array, "candidate action"]


class Ranking(NamedTuple):
    """What the model says of each candidate.

    Attributes:
        score: Higher is faster; comparable within one workload only.
        features: The head's last hidden layer, on which online adaptation regresses.
        latent: The pooled terminal latent that training aligns with the lowered program.
    """

    score: Float[Array, "candidate"]
    features: Float[Array, "candidate head"]
    latent: Float[Array, "candidate latent"]


def main_slot(graph: GraphArrays) -> Int[Array, ""]:
    """Returns the slot of the stage that does the most work."""
    work = jnp.asarray(graph.stages)[:, _WORK] * jnp.asarray(graph.present)
    return work.argmax()


class RankingHead(nnx.Module):
    """Scores terminal latents together with pooled actions and the hardware vector."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = (POOLED + 1) * config.latent_width + 2 * config.action_width + config.hardware_width
        self.hidden = nnx.Linear(width, config.head_width, rngs=rngs)
        self.last = nnx.Linear(config.head_width, config.head_width, rngs=rngs)
        self.score = nnx.Linear(config.head_width, 1, rngs=rngs)

    def __call__(
        self, latent: Float[Array, "candidate latent"], beside: Float[Array, "candidate beside"]
    ) -> Ranking:
        """Ranks by the pooled terminal latent and what is known beside it."""
        inputs = jnp.concatenate([latent, beside], -1)
        features = nnx.gelu(self.last(nnx.gelu(self.hidden(inputs))))
        return Ranking(self.score(features)[:, 0], features, latent)


class WorldModel(nnx.Module):
    """Ranks schedules of a program by rolling them out in latent space."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.program = GraphEncoder(config, rngs=rngs)
        self.step = StepEncoder(config, rngs=rngs)
        self.hardware = HardwareEncoder(config, rngs=rngs)
        self.transition = Transition(config, rngs=rngs)
        self.head = RankingHead(config, rngs=rngs)
        self.latent_width = POOLED * config.latent_width

    @property
    def values_layer(self) -> nnx.Linear:
        """The layer that reads the steps' values."""
        return self.step.values

    def encode(self, graph: GraphArrays) -> tuple[Array, Array]:
        """Returns the initial latent of one program: slots and whole."""
        return self.program(graph)

    def rank(
        self,
        graph: GraphArrays,
        schedules: Schedules,
        hardware: Float[Array, "column"],
    ) -> Ranking:
        """Ranks candidates of one program on one device.

        Args:
            graph: The program, with at least the slots that the schedules address.
            schedules: The candidates.
            hardware: The encoded hardware card.
        """
        initial = self.begin(graph)
        count = schedules.kind.shape[0]
        all_alike = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape[1:])), initial
        )
        return self.end(graph, initial, self.go_on(all_alike, schedules, hardware), hardware)

    def begin(self, graph: GraphArrays) -> Beginning:
        """Returns the beginning without steps of one candidate of a program."""
        slots, whole = self.encode(graph)
        none = jnp.zeros((1, self.step.mix.out_features), whole.dtype)
        return Beginning(
            Latent(slots[None], whole[None]), jnp.zeros((1, slots.shape[0])), none, none
        )

    def go_on(
        self, beginning: Beginning, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Beginning:
        """Applies the steps that follow a beginning of each candidate.

        Args:
            beginning: Of the candidates.
            schedules: The steps that follow, and how many.
            hardware: The encoded hardware card.
        """
        candidates, steps = schedules.kind.shape
        live = jnp.arange(steps)[None, :] < schedules.length[:, None]
        actions = self.step(schedules, hardware) * live[..., None]
        latent = rollout(
            self.transition,
            beginning.latent,
            Action(
                actions.swapaxes(0, 1),
                schedules.stage.T,
                schedules.other.T,
                live.T,
            ),
        )
        addressed = beginning.addressed.at[jnp.arange(candidates)[:, None], schedules.stage].max(
            live.astype(jnp.float32)
        )
        return Beginning(
            latent,
            addressed,
            beginning.total + actions.sum(1),
            jnp.maximum(beginning.largest, actions.max(1, initial=0)),
        )

    def end(
        self,
        graph: GraphArrays,
        initial: Beginning,
        ended: Beginning,
        hardware: Float[Array, "column"],
    ) -> Ranking:
        """Ranks candidates whose steps are all applied.

        Args:
            graph: The program.
            initial: What `begin` returned of it.
            ended: The candidates.
            hardware: The encoded hardware card.
        """
        used = jnp.maximum(ended.addressed, jnp.asarray(graph.present)[None, :])
        latent = self.pool_latent(graph, ended.latent, used)
        candidates = latent.shape[0]
        whole, device = (
            jnp.broadcast_to(vector, (candidates, vector.shape[-1]))
            for vector in (initial.latent.whole, self.hardware(hardware))
        )
        return self.head(latent, jnp.concatenate([whole, self.pool_actions(ended), device], -1))

    def pool_latent(
        self, graph: GraphArrays, terminal: Latent, used: Float[Array, "candidate slot"]
    ) -> Float[Array, "candidate pooled"]:
        """Sums up terminal latents: the whole, slots in use, and the stage of most work."""
        mask = used[..., None]
        mean = (terminal.slots * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
        largest = jnp.where(mask > 0, terminal.slots, -1).max(1)
        return jnp.concatenate(
            [terminal.whole, mean, largest, terminal.slots[:, main_slot(graph)]], -1
        )

    def pool_actions(self, ended: Beginning) -> Float[Array, "candidate pooled"]:
        """Sums up the actions of whole schedules."""
        return jnp.concatenate([ended.total / 16, ended.largest], -1)


def create_model(config: ModelConfig, seed: int) -> WorldModel:
    """Returns one member with fresh parameters."""
    return WorldModel(config, rngs=nnx.Rngs(seed))


def create_ensemble(config: ModelConfig, seed: int) -> Ensemble:
    """Returns all members with fresh parameters."""
    return Ensemble.of([create_model(config, seed + at) for at in range(config.members)])
