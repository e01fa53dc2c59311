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
    """One step of each candidate: the encoded step, and the slots it addresses."""

    encoded: Float[Array, "candidate action"]
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

    def kernel(self) -> Float[Array, "input update"]:
        """The weights of both layers, which one product of matrices applies.

        Applying the action's layer to all steps ahead of the rollout costs more: what it makes
        is larger than the actions, and has to be written and read again.
        """
        return jnp.concatenate([self.state.kernel[...], self.action.kernel[...]])

    def __call__(
        self, latent: Latent, action: Action, kernel: Float[Array, "input update"]
    ) -> Latent:
        """Applies one step; candidates whose schedule has ended keep their state."""
        rows = jnp.arange(latent.whole.shape[0])
        here = latent.slots[rows, action.stage]
        there = latent.slots[rows, action.other]
        inputs = jnp.concatenate([here, there, latent.whole, action.encoded], -1)
        update = inputs @ kernel + self.action.bias[...]  # type: ignore[index]
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
        actions: Steps, time first: `encoded[step, candidate, action]` and so on.

    Returns:
        The terminal latents.
    """
    kernel = transition.kernel()

    def step(latent: Latent, action: Action) -> tuple[Latent, None]:
        return transition(latent, action, kernel), None

    terminal, _ = jax.lax.scan(step, initial, actions)
    return terminal
