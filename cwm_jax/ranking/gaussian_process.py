"""Online adaptation: correct a pretrained ranking with a workload's own measurements.

The normalised throughput is modelled as a line in the pretrained score plus a Gaussian process
on the ranking head's features (Rasmussen & Williams 2006, section 2.7: explicit basis functions
with a prior). The line's slope is held near what it is on training workloads, because a search
measures only what already scores high, where the slope cannot be seen; the process corrects
candidates that resemble measured ones and leaves the others to the pretrained score.

Candidates are ranked by an upper confidence bound: a search keeps the best of what it measures,
and what resembles many measured candidates can hardly surprise any more.
"""

import dataclasses
import sys
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Vector = Float[np.ndarray, "candidate"]
Matrix = Float[np.ndarray, "candidate head"]


@dataclasses.dataclass(frozen=True)
class AdaptationConfig:
    """Settings of online adaptation: how far measurements may correct the pretrained ranking.

    Attributes:
        minimum: Fewer measurements than this leave the pretrained score as it is.
        slope: Throughput a unit of score, on training workloads.
        slope_strength: How much squared score the measurements must span to count as much as
            the prior slope.
        length_scale: Length scale of the process, in standard deviations of a feature.
        least_scale: Added to these: a feature that hardly varies among the measured must not
            blow up elsewhere.
        noise: Variance of a measurement over that of the process.
        exploration: Standard deviations that the bound lies above the mean.
        residual: Standard deviation of the throughput around the line, as long as too little
            is measured to tell.
        drawn: Share of a round that is drawn at random until the pretrained ranking is trusted
            (`cwm_jax.ranking.trust`); 0 trusts it blindly.
    """

    minimum: int = 4
    slope: float = 0.12
    slope_strength: float = 64.0
    length_scale: float = 0.5
    least_scale: float = 1e-2
    noise: float = 1.0
    exploration: float = 1.5
    residual: float = 0.15
    drawn: float = 0.25


AdaptationName = Literal["none", "mean", "bound"]

ADAPTATIONS: dict[AdaptationName, AdaptationConfig] = {
    "none": AdaptationConfig(minimum=sys.maxsize, exploration=0.0, drawn=0.0),
    "mean": AdaptationConfig(exploration=0.0),
    "bound": AdaptationConfig(),
}
"""How measurements may correct the ranking, by the name that `cwm tune` takes."""


class Adaptation(NamedTuple):
    """A fitted correction.

    Attributes:
        center: Mean score of the measured candidates.
        offset: Their mean throughput.
        slope: Throughput a unit of score; never negative.
        feature_center: Mean of the features.
        feature_scale: Their standard deviation.
        anchors: Standardised features of the measured candidates.
        weights: Weights of each anchor's kernel.
        precision: Inverse covariance of the measurements.
        spread: Exploration times the standard deviation of the process.
        length_scale: Length scale of the kernel.
        noise: Variance of a measurement over that of the process.
    """

    center: float
    offset: float
    slope: float
    feature_center: Float[np.ndarray, "head"]
    feature_scale: Float[np.ndarray, "head"]
    anchors: Float[np.ndarray, "measured head"]
    weights: Float[np.ndarray, "measured"]
    precision: Float[np.ndarray, "measured measured"]
    spread: float
    length_scale: float
    noise: float


def fit_adaptation(
    score: Vector, features: Matrix, throughput: Vector, config: AdaptationConfig
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
    center, offset = float(score.mean()), float(throughput.mean())
    centered = score.astype(np.float64) - center
    strength = config.slope_strength
    evidence = centered @ (throughput - offset)
    slope = float((evidence + strength * config.slope) / (centered @ centered + strength))
    slope = max(0.0, slope)
    feature_center = features.mean(0)
    feature_scale = features.std(0) + config.least_scale
    anchors = (features - feature_center) / feature_scale
    gram = _kernel(anchors, anchors, config.length_scale)
    residual = throughput - offset - slope * centered
    precision = np.linalg.inv(gram + config.noise * np.eye(len(score)))
    return Adaptation(
        center,
        offset,
        slope,
        feature_center,
        feature_scale,
        anchors,
        precision @ residual,
        precision,
        config.exploration * float(residual.std()),
        config.length_scale,
        config.noise,
    )


def prior_adaptation(score: Vector, features: Matrix, config: AdaptationConfig) -> Adaptation:
    """Returns the correction to use before there are measurements.

    It keeps the order of the pretrained scores, and like `fit_adaptation` it lets a batch be
    chosen for variety.

    Args:
        score: Pretrained scores of the candidates.
        features: Their head features.
        config: Prior.
    """
    width = features.shape[1]
    return Adaptation(
        center=float(score.mean()),
        offset=0.0,
        slope=config.slope,
        feature_center=features.mean(0),
        feature_scale=features.std(0) + config.least_scale,
        anchors=np.zeros((0, width)),
        weights=np.zeros(0),
        precision=np.zeros((0, 0)),
        spread=config.exploration * config.residual,
        length_scale=config.length_scale,
        noise=config.noise,
    )


def adapted_score(
    adaptation: Adaptation, score: Vector, features: Matrix
) -> Float[np.ndarray, "candidate"]:
    """Returns the upper confidence bound of each candidate's normalised throughput."""
    standard = (features - adaptation.feature_center) / adaptation.feature_scale
    line = adaptation.offset + adaptation.slope * (score - adaptation.center)
    kernel = _kernel(standard, adaptation.anchors, adaptation.length_scale)
    variance = 1 - np.einsum("cm,mn,cn->c", kernel, adaptation.precision, kernel, optimize=True)
    bound = adaptation.spread * np.sqrt(np.maximum(variance, 0))
    return (line + kernel @ adaptation.weights + bound).astype(np.float32)


def choose_batch(adaptation: Adaptation, score: Vector, features: Matrix, size: int) -> list[int]:
    """Chooses candidates to measure together: good, unsure, and unlike each other.

    One by one the highest upper confidence bound is taken; each one taken counts as measured at
    its own mean, which shrinks the variance of similar ones (Ginsbourger et al. 2010).

    Args:
        adaptation: Fitted to what is measured.
        score: Pretrained scores.
        features: Head features.
        size: How many to choose at most.

    Returns:
        Positions, best first.
    """
    standard = (features - adaptation.feature_center) / adaptation.feature_scale
    to_measured = _kernel(standard, adaptation.anchors, adaptation.length_scale)
    mean = adaptation.offset + adaptation.slope * (score - adaptation.center)
    mean = mean + to_measured @ adaptation.weights
    explained = to_measured @ adaptation.precision
    variance = 1 - (explained * to_measured).sum(1)
    # Covariance of each candidate with those chosen, whitened: a row for each chosen one.
    shared = np.zeros((0, len(score)))
    chosen: list[int] = []
    open_ = np.ones(len(score), bool)
    for _ in range(min(size, len(score))):
        bound = mean + adaptation.spread * np.sqrt(np.maximum(variance, 0))
        best = int(np.where(open_, bound, -np.inf).argmax())
        chosen.append(best)
        open_[best] = False
        column = _kernel(standard, standard[best : best + 1], adaptation.length_scale)[:, 0]
        column = column - explained @ to_measured[best] - shared[:, best] @ shared
        column = column / np.sqrt(max(variance[best], 0) + adaptation.noise)
        variance = variance - column**2
        shared = np.concatenate([shared, column[None]])
    return chosen


def _kernel(
    left: Matrix, right: Matrix, length_scale: float
) -> Float[np.ndarray, "candidate measured"]:
    """Squared-exponential kernel of mean squared distances."""
    squared = (left**2).mean(1)[:, None] + (right**2).mean(1)[None, :]
    squared = squared - 2 * (left @ right.T) / left.shape[1]
    return np.exp(-np.maximum(squared, 0) / (2 * length_scale**2))
