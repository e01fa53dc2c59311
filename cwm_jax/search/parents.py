"""Which schedules of a generation have children."""

import numpy as np
from jaxtyping import Float32, Int


def draw_parents(
    scores: Float32[np.ndarray, "candidate"],
    count: int,
    temperature: float,
    rng: np.random.Generator,
) -> Int[np.ndarray, "parent"]:
    """Draws positions, the better the likelier: by the exponential of the score.

    Args:
        scores: Higher is better; what has minus infinity is never drawn. One at least is finite.
        count: How many to draw; one may come more than once.
        temperature: In standard deviations of the score.
        rng: Source of the draw.
    """
    finite = scores[np.isfinite(scores)]
    spread = max(float(finite.std()), 1e-6) * temperature
    weight = np.exp((scores - finite.max()) / spread)
    return rng.choice(len(scores), size=count, p=weight / weight.sum())
