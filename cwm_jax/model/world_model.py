"""The world model: encode once, roll out, rank."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from cwm_jax.features.program import STAGE_COLUMNS, ProgramArrays
from cwm_jax.model.config import ModelConfig
from cwm_jax.model.encoders import HardwareEncoder, ProgramEncoder, StepEncoder
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.inputs import Schedules
from cwm_jax.model.transition import Action, Latent, Transition, rollout

POOLED = 4
"""Latent vectors that sum up a terminal latent (`WorldModel.pool_latent`)."""

_WORK = STAGE_COLUMNS.index("log_points")


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


def main_slot(program: ProgramArrays) -> Int[Array, ""]:
    """Returns the slot of the stage that does the most work."""
    work = jnp.asarray(program.stages)[:, _WORK] * jnp.asarray(program.present)
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
        self.program = ProgramEncoder(config, rngs=rngs)
        self.step = StepEncoder(config, rngs=rngs)
        self.hardware = HardwareEncoder(config, rngs=rngs)
        self.transition = Transition(config, rngs=rngs)
        self.head = RankingHead(config, rngs=rngs)
        self.latent_width = POOLED * config.latent_width

    @property
    def values_layer(self) -> nnx.Linear:
        """The layer that reads the steps' values."""
        return self.step.values

    def encode(self, program: ProgramArrays) -> tuple[Array, Array]:
        """Returns the initial latent of one program: slots and whole."""
        return self.program(program)

    def rank(
        self,
        program: ProgramArrays,
        schedules: Schedules,
        hardware: Float[Array, "column"],
    ) -> Ranking:
        """Ranks candidates of one program on one device.

        Args:
            program: The program, with at least the slots that the schedules address.
            schedules: The candidates.
            hardware: The encoded hardware card.
        """
        slots, whole = self.encode(program)
        candidates, steps = schedules.kind.shape
        initial = Latent(
            jnp.broadcast_to(slots, (candidates, *slots.shape)),
            jnp.broadcast_to(whole, (candidates, *whole.shape)),
        )
        live = jnp.arange(steps)[None, :] < schedules.length[:, None]
        actions = self.step(schedules, hardware) * live[..., None]
        terminal = rollout(
            self.transition,
            initial,
            Action(
                actions.swapaxes(0, 1),
                schedules.stage.T,
                schedules.other.T,
                live.T,
            ),
        )
        addressed = (
            jnp.zeros((candidates, slots.shape[0]))
            .at[jnp.arange(candidates)[:, None], schedules.stage]
            .max(live.astype(jnp.float32))
        )
        used = jnp.maximum(addressed, jnp.asarray(program.present)[None, :])
        device = jnp.broadcast_to(
            self.hardware(hardware), (candidates, self.hardware.layer.out_features)
        )
        latent = self.pool_latent(program, terminal, used)
        beside = jnp.concatenate([initial.whole, self.pool_actions(actions), device], -1)
        return self.head(latent, beside)

    def pool_latent(
        self, program: ProgramArrays, terminal: Latent, used: Float[Array, "candidate slot"]
    ) -> Float[Array, "candidate pooled"]:
        """Sums up terminal latents: the whole, slots in use, and the stage of most work."""
        mask = used[..., None]
        mean = (terminal.slots * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
        largest = jnp.where(mask > 0, terminal.slots, -1).max(1)
        return jnp.concatenate(
            [terminal.whole, mean, largest, terminal.slots[:, main_slot(program)]], -1
        )

    def pool_actions(
        self, actions: Float[Array, "candidate step action"]
    ) -> Float[Array, "candidate pooled"]:
        """Sums up the actions of whole schedules; padding is zero."""
        return jnp.concatenate([actions.sum(1) / 16, actions.max(1, initial=0)], -1)


def create_model(config: ModelConfig, seed: int) -> WorldModel:
    """Returns one member with fresh parameters."""
    return WorldModel(config, rngs=nnx.Rngs(seed))


def create_ensemble(config: ModelConfig, seed: int) -> Ensemble:
    """Returns all members with fresh parameters."""
    return Ensemble.of([create_model(config, seed + at) for at in range(config.members)])
