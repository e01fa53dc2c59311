"""What the model takes: arrays on the device, in the layout of `cwm_jax.features`."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cwm_jax.features.batch import StepArrays


class Schedules(NamedTuple):
    """A batch of schedules (see `cwm_jax.features.batch.StepArrays`)."""

    kind: Int[Array, "candidate step"]
    tag: Int[Array, "candidate step"]
    stage: Int[Array, "candidate step"]
    other: Int[Array, "candidate step"]
    values: Float[Array, "candidate step column"]
    length: Int[Array, "candidate"]


def to_schedules(arrays: StepArrays) -> Schedules:
    """Moves encoded schedules to the default device."""
    return Schedules(
        jnp.asarray(arrays.kind),
        jnp.asarray(arrays.tag),
        jnp.asarray(arrays.stage),
        jnp.asarray(arrays.other),
        jnp.asarray(arrays.values),
        jnp.asarray(arrays.length),
    )
