"""Ranking losses within a workload."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def pairwise_loss(
    scores: Float[Array, "list candidate"],
    throughput: Float[Array | np.ndarray, "list candidate"],
    valid: Bool[Array | np.ndarray, "list candidate"],
    emphasis: Float[Array | np.ndarray, "list"],
    ratio_weight: float = 0.0,
) -> Float[Array, ""]:
    """RankNet's logistic loss, each pair weighted by its difference in throughput.

    The weight plays the part of LambdaRank's metric difference (Burges 2010): confusing a fast
    candidate with a slow one costs most, and noise between near-equal ones costs little.

    Args:
        scores: Higher is better.
        throughput: Normalised, in (0, 1].
        valid: False for padding.
        emphasis: How much each list counts.
        ratio_weight: Weight of the logarithm of the ratio of throughputs, up to 1, beside their
            difference: slow candidates are told apart, too.
    """
    difference = scores[:, :, None] - scores[:, None, :]
    gain = throughput[:, :, None] - throughput[:, None, :]
    both = valid[:, :, None] & valid[:, None, :]
    speed = jnp.log(jnp.where(valid, throughput, 1))
    ratio = jnp.clip(speed[:, :, None] - speed[:, None, :], 0, 1)
    cost = jnp.maximum(gain, 0) + ratio_weight * ratio
    weight = cost * both * jnp.asarray(emphasis)[:, None, None]
    return (weight * jax.nn.softplus(-difference)).sum() / jnp.maximum(weight.sum(), 1e-6)


def listwise_loss(
    scores: Float[Array, "list candidate"],
    throughput: Float[Array | np.ndarray, "list candidate"],
    valid: Bool[Array | np.ndarray, "list candidate"],
    temperature: float,
    emphasis: Float[Array | np.ndarray, "list"],
) -> Float[Array, ""]:
    """ListNet's top-one cross-entropy (Cao et al. 2007) against softmax of the throughput.

    Args:
        scores: Higher is better.
        throughput: Normalised, in (0, 1].
        valid: False for padding.
        temperature: Of the target distribution; smaller looks at the best candidates only.
        emphasis: How much each list counts.
    """
    low = -1e9
    target = jax.nn.softmax(jnp.where(valid, throughput / temperature, low), axis=-1)
    log_predicted = jax.nn.log_softmax(jnp.where(valid, scores, low), axis=-1)
    per_list = -(target * jnp.where(valid, log_predicted, 0)).sum(-1)
    entropy = -(target * jnp.where(valid, jnp.log(jnp.maximum(target, 1e-12)), 0)).sum(-1)
    weight = valid.any(-1) * jnp.asarray(emphasis)
    return ((per_list - entropy) * weight).sum() / jnp.maximum(weight.sum(), 1e-6)
