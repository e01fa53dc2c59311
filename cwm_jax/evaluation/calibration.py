"""Calibration of an ensemble: stated against observed confidence."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BINS = 10


class Calibration(NamedTuple):
    """A reliability diagram of pairwise comparisons.

    Attributes:
        stated: Mean probability, by the members, that the first of a pair is faster; by bin.
        observed: Share of pairs in which it is.
        pairs: Pairs in each bin.
    """

    stated: Float[np.ndarray, "bin"]
    observed: Float[np.ndarray, "bin"]
    pairs: Float[np.ndarray, "bin"]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of stated and observed, by pairs."""
        some = self.pairs > 0
        apart = np.abs(self.stated - self.observed)[some]
        return float((apart * self.pairs[some]).sum() / max(self.pairs.sum(), 1))


def pair_probabilities(
    members: Float[np.ndarray, "candidate member"],
) -> Float[np.ndarray, "candidate candidate"]:
    """Returns how likely row i is faster than column j: the mean of the members' opinions.

    Training fits each member's difference of scores as a logit.
    """
    difference = members[:, None, :] - members[None, :, :]
    return (1 / (1 + np.exp(-difference))).mean(2)


def calibrate(
    parts: list[tuple[Float[np.ndarray, "candidate member"], Float[np.ndarray, "candidate"]]],
) -> Calibration:
    """Compares stated with observed probabilities over workloads.

    Args:
        parts: Members' scores and measured latencies of each workload.
    """
    stated, observed, pairs = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for members, latencies in parts:
        probability = pair_probabilities(members)
        differ = latencies[:, None] != latencies[None, :]
        faster = (latencies[:, None] < latencies[None, :])[differ]
        chosen = probability[differ]
        row = np.minimum((chosen * BINS).astype(int), BINS - 1)
        stated += np.bincount(row, weights=chosen, minlength=BINS)
        observed += np.bincount(row, weights=faster, minlength=BINS)
        pairs += np.bincount(row, minlength=BINS)
    count = np.maximum(pairs, 1)
    return Calibration(stated / count, observed / count, pairs)
