"""The published static models, trained on the same records and split as the world model.

They read tokens in place of steps: a token is a lowered store with TVM's 164 features for
TenSet's model, and a raw schedule primitive for the TLP-style one. So they go through the same
batches, losses and metrics. Ansor's XGBoost is in `cwm_jax.evaluation.boosted_trees`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from cwm_jax.evaluation.sequence_models import attend
from cwm_jax.features.batch import StepArrays
from cwm_jax.features.buckets import SLOT_BUCKETS, STEP_BUCKETS, bucket
from cwm_jax.features.graph import ProgramArrays
from cwm_jax.model.inputs import Schedules
from cwm_jax.model.world_model import Ranking
from cwm_jax.records.steps import STEP_KIND_IDS, STEP_KINDS, Step
from cwm_jax.records.store_features import STORE_WIDTH, Stores

TLP_NUMBERS = 16
TLP_WIDTH = len(STEP_KINDS) + TLP_NUMBERS


def tokens_of_stores(stores: Sequence[Stores]) -> StepArrays:
    """Lays the stores of each candidate out as steps; `values` are TVM's features over 16."""
    return _tokens([rows / 16 for rows in stores], STORE_WIDTH)


def tokens_of_primitives(schedules: Sequence[tuple[Step, ...]]) -> StepArrays:
    """Lays raw primitives out as steps, as TLP (ASPLOS'23) does: kind, then numbers in order."""
    return _tokens(
        [np.stack([_primitive(step) for step in schedule]) for schedule in schedules], TLP_WIDTH
    )


def _tokens(rows: Sequence[np.ndarray], width: int) -> StepArrays:
    length = np.array([len(row) for row in rows], np.int32)
    steps = bucket(max(int(length.max(initial=1)), 1), STEP_BUCKETS)
    values = np.zeros((len(rows), steps, width), np.float32)
    for at, row in enumerate(rows):
        values[at, : len(row)] = row
    none = np.zeros((len(rows), steps), np.int32)
    return StepArrays(none, none, none, none, values, length, SLOT_BUCKETS[0])


def _primitive(step: Step) -> np.ndarray:
    row = np.zeros(TLP_WIDTH, np.float32)
    row[STEP_KIND_IDS[step.kind]] = 1
    numbers: list[float] = []
    for value in step.fields:
        if isinstance(value, tuple):
            numbers.extend(float(number) for number in value)
        elif isinstance(value, str):
            numbers.append(float(sum(value.encode())))
        else:
            numbers.append(float(value or 0))
    taken = np.array(numbers[:TLP_NUMBERS])
    row[len(STEP_KINDS) : len(STEP_KINDS) + len(taken)] = np.log2(1 + np.maximum(taken, 0)) / 8
    return row


class TensetMlp(nnx.Module):
    """TenSet's MLP (NeurIPS'21): stores one by one, summed, then decoded; 0.24M parameters."""

    def __init__(self, *, rngs: nnx.Rngs, width: int = 256) -> None:
        self.latent_width = width
        self.first = nnx.Linear(STORE_WIDTH, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.third = nnx.Linear(width, width, rngs=rngs)
        self.fourth = nnx.Linear(width, width, rngs=rngs)
        self.score = nnx.Linear(width, 1, rngs=rngs)

    @property
    def values_layer(self) -> nnx.Linear:
        """The layer that reads the steps' values."""
        return self.first

    def rank(
        self, program: ProgramArrays, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Ranking:
        """Ranks by stores; program and hardware are not looked at."""
        x = nnx.relu(self.second(nnx.relu(self.first(schedules.values))))
        live = jnp.arange(x.shape[1])[None, :] < schedules.length[:, None]
        x = (x * live[..., None]).sum(1)
        x = x + nnx.relu(self.third(x))
        x = x + nnx.relu(self.fourth(x))
        return Ranking(self.score(x)[:, 0], x, x)


class Tlp(nnx.Module):
    """A TLP-style transformer over raw primitives: one attention block, about 0.6M parameters."""

    def __init__(self, *, rngs: nnx.Rngs, width: int = 256, heads: int = 8) -> None:
        self.latent_width = width
        self.heads = heads
        self.first = nnx.Linear(TLP_WIDTH, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.projections = nnx.Linear(width, 3 * width, rngs=rngs)
        self.merge = nnx.Linear(width, width, rngs=rngs)
        self.third = nnx.Linear(width, width, rngs=rngs)
        self.fourth = nnx.Linear(width, width, rngs=rngs)
        self.score = nnx.Linear(width, 1, rngs=rngs)

    @property
    def values_layer(self) -> nnx.Linear:
        """The layer that reads the steps' values."""
        return self.first

    def rank(
        self, program: ProgramArrays, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Ranking:
        """Ranks by primitives; program and hardware are not looked at."""
        x = nnx.relu(self.second(nnx.relu(self.first(schedules.values))))
        live = jnp.arange(x.shape[1])[None, :] < schedules.length[:, None]
        x = self.merge(attend(self.projections(x), self.heads, live))
        x = x + nnx.relu(self.third(x))
        x = x + nnx.relu(self.fourth(x))
        scores = self.score(x)[..., 0] * live
        pooled = (x * live[..., None]).sum(1)
        return Ranking(scores.sum(1), pooled, pooled)
