"""Static models over the steps of a schedule, to judge the rollout against.

All share the world model's encoders and ranking head; only what lies between differs. None
keeps a latent program that steps act on.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from cwm_jax.features.graph import ProgramArrays
from cwm_jax.model.config import ModelConfig
from cwm_jax.model.encoders import HardwareEncoder, ProgramEncoder, StepEncoder
from cwm_jax.model.inputs import Schedules
from cwm_jax.model.world_model import POOLED, Ranking, RankingHead, main_slot

SequenceKind = Literal["bag", "gru", "attention", "state-space"]
SEQUENCE_KINDS: tuple[SequenceKind, ...] = ("bag", "gru", "attention", "state-space")

Steps = Float[Array, "candidate step width"]
Live = Bool[Array, "candidate step"]


class Bag(nnx.Module):
    """No order at all: each step by itself, then mean and maximum."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.inner = nnx.Linear(width, 3 * width, rngs=rngs)
        self.outer = nnx.Linear(3 * width, width, rngs=rngs)

    def __call__(self, steps: Steps, live: Live) -> Steps:
        """Returns one vector a step."""
        return jnp.tanh(self.outer(nnx.gelu(self.inner(steps)))) * live[..., None]


class Gru(nnx.Module):
    """A gated recurrent unit (Cho et al. 2014) over the steps."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.action = nnx.Linear(width, 3 * width, rngs=rngs)
        self.state = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)

    def __call__(self, steps: Steps, live: Live) -> Steps:
        """Returns the state after each step."""
        drive = self.action(steps).swapaxes(0, 1)

        def step(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            driven, is_live = inputs
            reset, update, proposal = jnp.split(driven, 3, -1)
            from_reset, from_update, from_state = jnp.split(self.state(state), 3, -1)
            gate = nnx.sigmoid(update + from_update) * is_live[:, None]
            new = jnp.tanh(proposal + nnx.sigmoid(reset + from_reset) * from_state)
            state = state + gate * (new - state)
            return state, state

        _, states = jax.lax.scan(step, jnp.zeros_like(steps[:, 0]), (drive, live.T))
        return states.swapaxes(0, 1)


def attend(projected: Float[Array, "candidate step triple"], heads: int, live: Live) -> Steps:
    """Multi-head attention of steps to live steps.

    Args:
        projected: Query, key and value of each step, side by side.
        heads: How many.
        live: False for padding.
    """
    count, length, width = projected.shape
    shape = (count, length, heads, width // 3 // heads)
    query, key, value = (part.reshape(shape) for part in jnp.split(projected, 3, -1))
    mixed = jax.nn.dot_product_attention(query, key, value, mask=live[:, None, None, :])
    return mixed.reshape(count, length, width // 3)


class Attention(nnx.Module):
    """One pre-norm transformer block with learned positions."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, heads: int = 4, longest: int = 256) -> None:
        self.heads = heads
        self.position = nnx.Embed(longest, width, rngs=rngs)
        self.first_norm = nnx.LayerNorm(width, rngs=rngs)
        self.projections = nnx.Linear(width, 3 * width, rngs=rngs)
        self.merge = nnx.Linear(width, width, rngs=rngs)
        self.second_norm = nnx.LayerNorm(width, rngs=rngs)
        self.inner = nnx.Linear(width, 2 * width, rngs=rngs)
        self.outer = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, steps: Steps, live: Live) -> Steps:
        """Returns one vector a step that has seen all others."""
        last = self.position.num_embeddings - 1
        x = steps + self.position(jnp.minimum(jnp.arange(steps.shape[1]), last))[None]
        x = x + self.merge(attend(self.projections(self.first_norm(x)), self.heads, live))
        x = x + self.outer(nnx.gelu(self.inner(self.second_norm(x))))
        return jnp.tanh(x) * live[..., None]


class StateSpace(nnx.Module):
    """A selective diagonal state-space model (after Gu and Dao 2023), as a parallel scan."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.enter = nnx.Linear(width, 2 * width, rngs=rngs)
        self.step_size = nnx.Linear(width, 2 * width, rngs=rngs)
        self.leave = nnx.Linear(2 * width, width, rngs=rngs)
        self.gate = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, steps: Steps, live: Live) -> Steps:
        """Returns the gated output after each step."""
        size = nnx.softplus(self.step_size(steps)) * live[..., None]
        keep = jnp.exp(-size)
        drive = (1 - keep) * self.enter(steps)

        def join(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
            return left[0] * right[0], left[1] * right[0] + right[1]

        _, states = jax.lax.associative_scan(join, (keep, drive), axis=1)
        return jnp.tanh(self.leave(states)) * nnx.silu(self.gate(steps)) * live[..., None]


_MODULES: dict[SequenceKind, Callable[..., nnx.Module]] = {
    "bag": Bag,
    "gru": Gru,
    "attention": Attention,
    "state-space": StateSpace,
}


class SequenceModel(nnx.Module):
    """Ranks schedules by a sequence model over their steps."""

    def __init__(self, kind: SequenceKind, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = config.latent_width
        self.program = ProgramEncoder(config, rngs=rngs)
        self.step = StepEncoder(config, rngs=rngs)
        self.hardware = HardwareEncoder(config, rngs=rngs)
        self.enter = nnx.Linear(config.action_width, width, rngs=rngs)
        self.sequence = _MODULES[kind](width, rngs=rngs)
        self.head = RankingHead(config, rngs=rngs)
        self.latent_width = POOLED * config.latent_width

    @property
    def values_layer(self) -> nnx.Linear:
        """The layer that reads the steps' values."""
        return self.step.values

    def rank(
        self, program: ProgramArrays, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Ranking:
        """Ranks candidates of one program, as `WorldModel.rank` does."""
        slots, whole = self.program(program)
        candidates, steps = schedules.kind.shape
        live = jnp.arange(steps)[None, :] < schedules.length[:, None]
        actions = self.step(schedules, hardware) * live[..., None]
        states = self.sequence(self.enter(actions) + slots[schedules.stage], live)  # type: ignore[operator]
        states = states * live[..., None]
        rows = jnp.arange(candidates)
        final = states[rows, jnp.maximum(schedules.length - 1, 0)]
        addressed = live & (schedules.stage == main_slot(program))
        last_of_main = jnp.where(addressed, jnp.arange(steps), -1).max(1)
        main = states[rows, last_of_main] * (last_of_main >= 0)[:, None]
        mean = states.sum(1) / jnp.maximum(schedules.length, 1)[:, None]
        largest = jnp.where(live[..., None], states, -1).max(1)
        shared = (candidates, whole.shape[0])
        device = jnp.broadcast_to(
            self.hardware(hardware), (candidates, self.hardware.layer.out_features)
        )
        latent = jnp.concatenate([final, mean, largest, main], -1)
        beside = [
            jnp.broadcast_to(whole, shared),
            actions.sum(1) / 16,
            actions.max(1, initial=0),
            device,
        ]
        return self.head(latent, jnp.concatenate(beside, -1))
