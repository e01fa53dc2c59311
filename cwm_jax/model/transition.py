"""The transition: how one step changes the latent program, and the rollout of a schedule."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cwm_jax.model.config import ModelConfig


class Latent(NamedTuple):
    """A batch of latent programs: one vector a slot and a global one."""

    slots: Float[Array, "candidate slot latent"]
    whole: Float[Array, "candidate latent"]


class Action(NamedTuple):
    """One step of each candidate: its part of the update, and the slots it addresses."""

    drive: Float[Array, "candidate update"]
    stage: Int[Array, "candidate"]
    other: Int[Array, "candidate"]
    live: Bool[Array, "candidate"]


class Transition(nnx.Module):
    """A gated update of the addressed slot and the global state.

    `z' = z + gate * (proposal - z)`: entries stay within (-1, 1) however long the schedule.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = config.latent_width
        self.action = nnx.Linear(config.action_width, 4 * width, rngs=rngs)
        self.state = nnx.Linear(3 * width, 4 * width, use_bias=False, rngs=rngs)

    def drive(self, actions: Float[Array, "*batch action"]) -> Float[Array, "*batch update"]:
        """The part of the update that does not depend on the state, for all steps at once."""
        return self.action(actions)

    def __call__(self, latent: Latent, action: Action) -> Latent:
        """Applies one step; candidates whose schedule has ended keep their state."""
        rows = jnp.arange(latent.whole.shape[0])
        here = latent.slots[rows, action.stage]
        there = latent.slots[rows, action.other]
        update = action.drive + self.state(jnp.concatenate([here, there, latent.whole], -1))
        gates, proposals = jnp.split(update, 2, axis=-1)
        gates = nnx.sigmoid(gates) * action.live[:, None]
        proposals = jnp.tanh(proposals)
        slot_gate, whole_gate = jnp.split(gates, 2, axis=-1)
        slot_proposal, whole_proposal = jnp.split(proposals, 2, axis=-1)
        slots = latent.slots.at[rows, action.stage].set(
            here + slot_gate * (slot_proposal - here),
            mode="promise_in_bounds",
            unique_indices=True,
        )
        return Latent(slots, latent.whole + whole_gate * (whole_proposal - latent.whole))


def rollout(transition: Transition, initial: Latent, actions: Action) -> Latent:
    """Applies whole schedules.

    Args:
        transition: The single step.
        initial: Latent programs.
        actions: Steps, time first: `drive[step, candidate, update]` and so on.

    Returns:
        The terminal latents.
    """

    def step(latent: Latent, action: Action) -> tuple[Latent, None]:
        return transition(latent, action), None

    terminal, _ = jax.lax.scan(step, initial, actions)
    return terminal
