"""Online adaptation: correct a pretrained ranking with a workload's own measurements.

Bayesian linear regression of the normalised throughput on the pretrained score and the ranking
head's features. The score's coefficient is almost free and those of the features are held near
zero, so that few measurements rescale the pretrained ranking and many can overrule it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class AdaptationConfig:
    """How firmly the pretrained ranking is held.

    Attributes:
        minimum: Fewer measurements than this leave the pretrained score as it is.
        score_precision: Prior precision of the score's coefficient around its least-squares
            scale; small is free.
        feature_precision: Prior precision of each feature's coefficient around zero.
    """

    minimum: int = 8
    score_precision: float = 1.0
    feature_precision: float = 30.0


class Adaptation(NamedTuple):
    """A fitted correction.

    Attributes:
        center: Mean of score and features over the measurements.
        scale: Their standard deviation.
        weights: Coefficients of the standardised inputs.
        offset: Mean throughput.
    """

    center: Float[np.ndarray, "input"]
    scale: Float[np.ndarray, "input"]
    weights: Float[np.ndarray, "input"]
    offset: float


def fit_adaptation(
    score: Float[np.ndarray, "measured"],
    features: Float[np.ndarray, "measured head"],
    throughput: Float[np.ndarray, "measured"],
    config: AdaptationConfig,
) -> Adaptation | None:
    """Fits the correction for one workload.

    Args:
        score: Pretrained scores of the measured candidates.
        features: Their head features.
        throughput: Best latency of the workload over each latency; 0 for failed ones.
        config: Prior.

    Returns:
        The correction, or None where there are too few measurements.
    """
    if len(score) < config.minimum:
        return None
    inputs = np.concatenate([score[:, None], features], axis=1).astype(np.float64)
    center = inputs.mean(0)
    scale = inputs.std(0) + 1e-6
    standard = (inputs - center) / scale
    offset = float(throughput.mean())
    width = features.shape[1]
    # Features are many and correlated: their joint prior variance is that of one input.
    precision = np.full(width + 1, config.feature_precision * width)
    precision[0] = config.score_precision
    gram = standard.T @ standard + np.diag(precision)
    weights = np.linalg.solve(gram, standard.T @ (throughput - offset))
    return Adaptation(center, scale, weights, offset)


def adapted_score(
    adaptation: Adaptation,
    score: Float[np.ndarray, "candidate"],
    features: Float[np.ndarray, "candidate head"],
) -> Float[np.ndarray, "candidate"]:
    """Returns the expected normalised throughput of each candidate."""
    inputs = np.concatenate([score[:, None], features], axis=1)
    standard = (inputs - adaptation.center) / adaptation.scale
    return (standard @ adaptation.weights + adaptation.offset).astype(np.float32)
