"""Distillation: one model learns what an ensemble says, and ranks several times as fast.

After Hinton et al. 2015 (arXiv 1503.02531), with differences of scores in place of class
probabilities: a ranking knows no others.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cwm_jax.model.ensemble import Ensemble
from cwm_jax.ranking.scorer import Ranker
from cwm_jax.training.dataset import WorkloadData


def teach(dataset: Mapping[str, WorkloadData], teacher: Ensemble) -> dict[str, WorkloadData]:
    """Returns the workloads with what a teacher says of their schedules.

    Args:
        dataset: Encoded workloads.
        teacher: The ensemble to learn from.
    """
    rank = Ranker(teacher)
    return {
        name: dataclasses.replace(
            workload, taught=rank(workload.graph, workload.steps, workload.hardware).score
        )
        for name, workload in dataset.items()
    }


def distillation_loss(
    scores: Float[Array, "list candidate"],
    taught: Float[Array | np.ndarray, "list candidate"],
    valid: Bool[Array | np.ndarray, "list candidate"],
    emphasis: Float[Array | np.ndarray, "list"],
) -> Float[Array, ""]:
    """Mean squared error of the scores, once each list is shifted to fit best.

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
