"""Losses of a batch, and their sum. A list holds candidates of one workload."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cwm_jax.model.world_model import Ranking
from cwm_jax.training.batching import Batch
from cwm_jax.training.config import TrainingConfig


def pairwise_loss(
    scores: Float[Array, "list candidate"],
    throughput: Float[Array | np.ndarray, "list candidate"],
    valid: Bool[Array | np.ndarray, "list candidate"],
    emphasis: Float[Array | np.ndarray, "list"],
    ratio_weight: float = 0.0,
) -> Float[Array, ""]:
    """Computes RankNet's logistic loss, each pair weighted by its difference in throughput.

    The weight plays the part of LambdaRank's metric difference (Burges 2010): confusing a fast
    candidate with a slow one costs most, and noise between near-equal ones costs little.

    Args:
        scores: Higher is better.
        throughput: Normalised, in (0, 1].
        valid: False for padding.
        emphasis: How much each list counts.
        ratio_weight: Weight of the logarithm of the ratio of throughputs, up to 1, beside their
            difference: so the order of slow candidates counts, too.
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
    """Computes ListNet's top-one cross-entropy (Cao et al. 2007) against softmaxed throughput.

    Args:
        scores: Higher is better.
        throughput: Normalised, in (0, 1].
        valid: False for padding.
        temperature: Temperature of the target distribution; a low one looks at the best only.
        emphasis: How much each list counts.
    """
    low = -1e9
    target = jax.nn.softmax(jnp.where(valid, throughput / temperature, low), axis=-1)
    log_predicted = jax.nn.log_softmax(jnp.where(valid, scores, low), axis=-1)
    per_list = -(target * jnp.where(valid, log_predicted, 0)).sum(-1)
    entropy = -(target * jnp.where(valid, jnp.log(jnp.maximum(target, 1e-12)), 0)).sum(-1)
    weight = valid.any(-1) * jnp.asarray(emphasis)
    return ((per_list - entropy) * weight).sum() / jnp.maximum(weight.sum(), 1e-6)


def distillation_loss(
    scores: Float[Array, "list candidate"],
    taught: Float[Array | np.ndarray, "list candidate"],
    valid: Bool[Array | np.ndarray, "list candidate"],
    emphasis: Float[Array | np.ndarray, "list"],
) -> Float[Array, ""]:
    """Computes the mean squared error of the scores, once each list is shifted to fit best.

    After Hinton et al. 2015 (arXiv 1503.02531), with differences of scores in place of class
    probabilities: only differences mean something in a ranking.

    Args:
        scores: Higher is better.
        taught: The teacher's scores.
        valid: False for padding.
        emphasis: How much each list counts.
    """
    count = jnp.maximum(valid.sum(-1), 1)
    error = jnp.where(valid, scores - taught, 0)
    shift = error.sum(-1) / count
    per_list = jnp.where(valid, (error - shift[:, None]) ** 2, 0).sum(-1) / count
    weight = valid.any(-1) * jnp.asarray(emphasis)
    return (per_list * weight).sum() / jnp.maximum(weight.sum(), 1e-6)


def alignment_loss(
    predicted: Float[Array, "list candidate target"],
    target: Float[Array | np.ndarray, "list candidate target"],
    valid: Bool[Array | np.ndarray, "list candidate"],
) -> Float[Array, ""]:
    """Computes the Huber loss on standardised targets; candidates without one do not count.

    Args:
        predicted: Predictions of the alignment head.
        target: NaN where unknown.
        valid: False for padding.
    """
    known = valid & jnp.isfinite(target).all(-1)
    error = predicted - jnp.where(known[..., None], target, 0)
    size = jnp.abs(error)
    huber = jnp.where(size < 1, 0.5 * error**2, size - 0.5).mean(-1)
    return (huber * known).sum() / jnp.maximum(known.sum(), 1)


def total_loss(
    ranking: Ranking,
    predicted: Float[Array, "list candidate target"] | None,
    batch: Batch,
    emphasis: Float[Array | np.ndarray, "list"],
    config: TrainingConfig,
) -> Float[Array, ""]:
    """Sums the losses of a batch by the weights of the settings.

    Args:
        ranking: Ranking of the batch, a list of candidates along the leading axis.
        predicted: Predictions of the alignment head; None where there are no targets.
        batch: Labels.
        emphasis: How much each list counts.
        config: Weights of the losses.
    """
    labels = batch.throughput, batch.valid
    pairwise = pairwise_loss(ranking.score, *labels, emphasis, config.ratio_weight)
    listwise = listwise_loss(ranking.score, *labels, config.temperature, emphasis)
    loss = pairwise + config.listwise_weight * listwise
    if batch.taught is not None:
        taught = distillation_loss(ranking.score, batch.taught, batch.valid, emphasis)
        loss += config.distillation_weight * taught
    if predicted is not None:
        aligned = alignment_loss(predicted, batch.alignment, batch.valid)
        loss += config.alignment_weight * aligned
    return loss
