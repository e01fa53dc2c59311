"""Terminal alignment: the latent at a schedule's end predicts the lowered program.

The target is what TVM's feature extractor says of the program that the schedule really leads
to. It is used in training only, and makes two step sequences that end in the same program land
together.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32

from cwm_jax.records.store_features import STORE_WIDTH, Stores

TARGET_WIDTH = 2 * STORE_WIDTH
_FLOAT_OPERATIONS = slice(0, 7)  # float_mad .. float_other_func, logarithmic


def alignment_target(stores: Stores) -> Float32[np.ndarray, "target"]:
    """Sums up a lowered program: its store of most arithmetic, and the mean over its stores.

    NaN where the program is unknown.
    """
    if len(stores) == 0:
        return np.full(TARGET_WIDTH, np.nan, np.float32)
    main = stores[stores[:, _FLOAT_OPERATIONS].max(1).argmax()]
    return np.concatenate([main, stores.mean(0)]).astype(np.float32)


class AlignmentHead(nnx.Module):
    """Predicts the standardised target from the pooled terminal latent."""

    def __init__(self, latent_width: int, *, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(latent_width, 2 * latent_width, rngs=rngs)
        self.out = nnx.Linear(2 * latent_width, TARGET_WIDTH, rngs=rngs)

    def __call__(self, latent: Float[Array, "*batch latent"]) -> Float[Array, "*batch target"]:
        """Returns the prediction."""
        return self.out(nnx.gelu(self.hidden(latent)))


def alignment_loss(
    predicted: Float[Array, "list candidate target"],
    target: Float[Array | np.ndarray, "list candidate target"],
    valid: Bool[Array | np.ndarray, "list candidate"],
) -> Float[Array, ""]:
    """Huber loss on standardised targets; candidates without a target count nothing."""
    known = valid & jnp.isfinite(target).all(-1)
    error = predicted - jnp.where(known[..., None], target, 0)
    size = jnp.abs(error)
    huber = jnp.where(size < 1, 0.5 * error**2, size - 0.5).mean(-1)
    return (huber * known).sum() / jnp.maximum(known.sum(), 1)
