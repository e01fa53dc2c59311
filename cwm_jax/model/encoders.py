"""Encoders: program -> initial latent, step -> action, hardware card -> vector."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cwm_jax.features.graph import GLOBAL_WIDTH, STAGE_WIDTH, GraphArrays
from cwm_jax.features.hardware import HARDWARE_WIDTH
from cwm_jax.features.step_features import STEP_WIDTH
from cwm_jax.model.config import ModelConfig
from cwm_jax.model.inputs import Schedules
from cwm_jax.records.steps import STEP_KINDS, TAGS


class GraphEncoder(nnx.Module):
    """Encodes a compute graph as one vector a stage and one for the whole."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = config.latent_width
        self.stage = nnx.Linear(STAGE_WIDTH, width, rngs=rngs)
        self.rounds = nnx.List(
            [nnx.Linear(3 * width, width, rngs=rngs) for _ in range(config.message_rounds)]
        )
        self.empty = nnx.Param(jnp.zeros(width))
        self.whole = nnx.Linear(GLOBAL_WIDTH + 2 * width, width, rngs=rngs)

    def __call__(
        self, graph: GraphArrays
    ) -> tuple[Float[Array, "slot latent"], Float[Array, "latent"]]:
        """Returns the latent of each slot and the global latent, entries within (-1, 1)."""
        present = jnp.asarray(graph.present)[:, None]
        reads = jnp.asarray(graph.reads)
        producers = reads / jnp.maximum(reads.sum(1, keepdims=True), 1)
        consumers = reads.T / jnp.maximum(reads.T.sum(1, keepdims=True), 1)
        slots = nnx.gelu(self.stage(jnp.asarray(graph.stages))) * present
        for layer in self.rounds:
            around = jnp.concatenate([slots, producers @ slots, consumers @ slots], -1)
            slots = (slots + nnx.gelu(layer(around))) * present
        mean = slots.sum(0) / jnp.maximum(present.sum(), 1)
        largest = jnp.max(jnp.where(present > 0, slots, -1e3), axis=0, initial=-1e3)
        largest = jnp.where(present.sum() > 0, largest, 0)
        whole = self.whole(jnp.concatenate([jnp.asarray(graph.whole), mean, largest]))
        empty = self.empty[...][None, :]
        return jnp.tanh(jnp.where(present > 0, slots, empty)), jnp.tanh(whole)


class StepEncoder(nnx.Module):
    """Encodes each step for one device, without regard to the state it acts on."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = config.action_width
        self.kind = nnx.Embed(len(STEP_KINDS), width, rngs=rngs)
        self.tag = nnx.Embed(len(TAGS), width, rngs=rngs)
        self.values = nnx.Linear(STEP_WIDTH, width, rngs=rngs)
        self.device = nnx.Linear(HARDWARE_WIDTH, width, use_bias=False, rngs=rngs)
        self.mix = nnx.Linear(width, width, rngs=rngs)

    def __call__(
        self, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Float[Array, "candidate step action"]:
        """Returns an action vector for every step, padding included."""
        values = self.values(schedules.values)
        # An embedding keeps the precision of its parameters when it was made.
        words = (self.kind(schedules.kind) + self.tag(schedules.tag)).astype(values.dtype)
        hidden = nnx.gelu(words + self.device(hardware) + values)
        return nnx.gelu(self.mix(hidden))


class HardwareEncoder(nnx.Module):
    """Encodes a hardware card."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(HARDWARE_WIDTH, config.hardware_width, rngs=rngs)

    def __call__(self, hardware: Float[Array, "column"]) -> Float[Array, "hardware"]:
        """Returns the hardware vector."""
        return nnx.gelu(self.layer(hardware))
