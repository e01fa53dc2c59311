"""The world model: encode once, roll out, rank."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cwm_jax.features.program import ProgramArrays
from cwm_jax.model.config import ModelConfig
from cwm_jax.model.encoders import HardwareEncoder, ProgramEncoder, StepEncoder
from cwm_jax.model.inputs import Schedules
from cwm_jax.model.transition import Action, Latent, Transition, rollout


class Ranking(NamedTuple):
    """What the model says of each candidate.

    Attributes:
        score: Higher is faster; comparable within one workload only.
        features: The head's last hidden layer, on which online adaptation regresses.
    """

    score: Float[Array, "candidate"]
    features: Float[Array, "candidate head"]


class RankingHead(nnx.Module):
    """Scores terminal latents together with pooled actions and the hardware vector."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = 4 * config.latent_width + 2 * config.action_width + config.hardware_width
        self.hidden = nnx.Linear(width, config.head_width, rngs=rngs)
        self.last = nnx.Linear(config.head_width, config.head_width, rngs=rngs)
        self.score = nnx.Linear(config.head_width, 1, rngs=rngs)

    def __call__(self, inputs: Float[Array, "candidate input"]) -> Ranking:
        """Returns scores and features."""
        features = nnx.gelu(self.last(nnx.gelu(self.hidden(inputs))))
        return Ranking(self.score(features)[:, 0], features)


class WorldModel(nnx.Module):
    """Ranks schedules of a program by rolling them out in latent space."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.program = ProgramEncoder(config, rngs=rngs)
        self.step = StepEncoder(config, rngs=rngs)
        self.hardware = HardwareEncoder(config, rngs=rngs)
        self.transition = Transition(config, rngs=rngs)
        self.head = RankingHead(config, rngs=rngs)

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
        actions = self.step(schedules) * live[..., None]
        terminal = rollout(
            self.transition,
            initial,
            Action(
                self.transition.drive(actions).swapaxes(0, 1),
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
        mask = jnp.maximum(addressed, jnp.asarray(program.present)[None, :])[..., None]
        mean = (terminal.slots * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
        largest = jnp.where(mask > 0, terminal.slots, -1).max(1)
        pooled = actions.sum(1) / 16
        strongest = actions.max(1, initial=0)
        device = jnp.broadcast_to(
            self.hardware(hardware), (candidates, self.hardware.layer.out_features)
        )
        inputs = [terminal.whole, initial.whole, mean, largest, pooled, strongest, device]
        return self.head(jnp.concatenate(inputs, -1))


def create_model(config: ModelConfig, seed: int) -> WorldModel:
    """Returns a model with fresh parameters."""
    return WorldModel(config, rngs=nnx.Rngs(seed))


def parameter_count(model: WorldModel) -> int:
    """Returns how many numbers training adjusts."""
    leaves = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return sum(int(leaf[...].size) for _, leaf in leaves)
