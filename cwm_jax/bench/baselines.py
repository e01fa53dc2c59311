"""The published static models, trained on the same records and split as the world model.

They read tokens in place of steps: a token is a lowered store with TVM's 164 features for
TenSet's model, and a raw schedule primitive for the TLP-style one. So they go through the same
batches, losses and metrics. Ansor's XGBoost is in `cwm_jax.bench.baselines`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32

from cwm_jax.features.batch import SLOT_BUCKETS, STEP_BUCKETS, StepArrays, bucket
from cwm_jax.features.graph import GraphArrays
from cwm_jax.model.world_model import (
    POOLED,
    GraphEncoder,
    HardwareEncoder,
    ModelConfig,
    Ranking,
    RankingHead,
    Schedules,
    StepEncoder,
    WorldModel,
    main_slot,
)
from cwm_jax.records.steps import STEP_KIND_IDS, STEP_KINDS, Step
from cwm_jax.records.store_features import STORE_WIDTH, Stores

SequenceKind = Literal["bag", "gru", "attention", "state-space"]
SEQUENCE_KINDS: tuple[SequenceKind, ...] = ("bag", "gru", "attention", "state-space")

Steps = Float[Array, "candidate step width"]
Live = Bool[Array, "candidate step"]


class Bag(nnx.Module):
    """No order at all: each step by itself, then mean and maximum."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.inner = nnx.Linear(width, 3 * width, rngs=rngs)
        self.outer = nnx.Linear(3 * width, width, rngs=rngs)

    def __call__(self, steps: Steps, live: Live) -> Steps:
        """Returns one vector a step."""
        return jnp.tanh(self.outer(nnx.gelu(self.inner(steps)))) * live[..., None]


class Gru(nnx.Module):
    """A gated recurrent unit (Cho et al. 2014) over the steps."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.action = nnx.Linear(width, 3 * width, rngs=rngs)
        self.state = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)

    def __call__(self, steps: Steps, live: Live) -> Steps:
        """Returns the state after each step."""
        drive = self.action(steps).swapaxes(0, 1)

        def step(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            driven, is_live = inputs
            reset, update, proposal = jnp.split(driven, 3, -1)
            from_reset, from_update, from_state = jnp.split(self.state(state), 3, -1)
            gate = nnx.sigmoid(update + from_update) * is_live[:, None]
            new = jnp.tanh(proposal + nnx.sigmoid(reset + from_reset) * from_state)
            state = state + gate * (new - state)
            return state, state

        _, states = jax.lax.scan(step, jnp.zeros_like(steps[:, 0]), (drive, live.T))
        return states.swapaxes(0, 1)


def attend(projected: Float[Array, "candidate step triple"], heads: int, live: Live) -> Steps:
    """Lets each step attend to the live steps, by several heads.

    Args:
        projected: Query, key and value of each step, side by side.
        heads: How many.
        live: False for padding.
    """
    count, length, width = projected.shape
    shape = (count, length, heads, width // 3 // heads)
    query, key, value = (part.reshape(shape) for part in jnp.split(projected, 3, -1))
    mixed = jax.nn.dot_product_attention(query, key, value, mask=live[:, None, None, :])
    return mixed.reshape(count, length, width // 3)


class Attention(nnx.Module):
    """One pre-norm transformer block with learned positions."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, heads: int = 4, longest: int = 256) -> None:
        self.heads = heads
        self.position = nnx.Embed(longest, width, rngs=rngs)
        self.first_norm = nnx.LayerNorm(width, rngs=rngs)
        self.projections = nnx.Linear(width, 3 * width, rngs=rngs)
        self.merge = nnx.Linear(width, width, rngs=rngs)
        self.second_norm = nnx.LayerNorm(width, rngs=rngs)
        self.inner = nnx.Linear(width, 2 * width, rngs=rngs)
        self.outer = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, steps: Steps, live: Live) -> Steps:
        """Returns one vector a step that has seen all others."""
        last = self.position.num_embeddings - 1
        x = steps + self.position(jnp.minimum(jnp.arange(steps.shape[1]), last))[None]
        x = x + self.merge(attend(self.projections(self.first_norm(x)), self.heads, live))
        x = x + self.outer(nnx.gelu(self.inner(self.second_norm(x))))
        return jnp.tanh(x) * live[..., None]


class StateSpace(nnx.Module):
    """A selective diagonal state-space model (after Gu and Dao 2023), as a parallel scan."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.enter = nnx.Linear(width, 2 * width, rngs=rngs)
        self.step_size = nnx.Linear(width, 2 * width, rngs=rngs)
        self.leave = nnx.Linear(2 * width, width, rngs=rngs)
        self.gate = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, steps: Steps, live: Live) -> Steps:
        """Returns the gated output after each step."""
        size = nnx.softplus(self.step_size(steps)) * live[..., None]
        keep = jnp.exp(-size)
        drive = (1 - keep) * self.enter(steps)

        def join(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
            return left[0] * right[0], left[1] * right[0] + right[1]

        _, states = jax.lax.associative_scan(join, (keep, drive), axis=1)
        return jnp.tanh(self.leave(states)) * nnx.silu(self.gate(steps)) * live[..., None]


_MODULES: dict[SequenceKind, Callable[..., nnx.Module]] = {
    "bag": Bag,
    "gru": Gru,
    "attention": Attention,
    "state-space": StateSpace,
}


class SequenceModel(nnx.Module):
    """Ranks schedules by a sequence model over their steps."""

    def __init__(self, kind: SequenceKind, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width = config.latent_width
        self.program = GraphEncoder(config, rngs=rngs)
        self.step = StepEncoder(config, rngs=rngs)
        self.hardware = HardwareEncoder(config, rngs=rngs)
        self.enter = nnx.Linear(config.action_width, width, rngs=rngs)
        self.sequence = _MODULES[kind](width, rngs=rngs)
        self.head = RankingHead(config, rngs=rngs)
        self.latent_width = POOLED * config.latent_width

    @property
    def values_layer(self) -> nnx.Linear:
        """Returns the layer that reads the steps' values."""
        return self.step.values

    def rank(
        self, graph: GraphArrays, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Ranking:
        """Ranks candidates of one workload, as `WorldModel.rank` does."""
        slots, whole = self.program(graph)
        candidates, steps = schedules.kind.shape
        live = jnp.arange(steps)[None, :] < schedules.length[:, None]
        actions = self.step(schedules, hardware) * live[..., None]
        states = self.sequence(self.enter(actions) + slots[schedules.stage], live)  # type: ignore[operator]
        states = states * live[..., None]
        rows = jnp.arange(candidates)
        final = states[rows, jnp.maximum(schedules.length - 1, 0)]
        addressed = live & (schedules.stage == main_slot(graph))
        last_of_main = jnp.where(addressed, jnp.arange(steps), -1).max(1)
        main = states[rows, last_of_main] * (last_of_main >= 0)[:, None]
        mean = states.sum(1) / jnp.maximum(schedules.length, 1)[:, None]
        largest = jnp.where(live[..., None], states, -1).max(1)
        shared = (candidates, whole.shape[0])
        device = jnp.broadcast_to(
            self.hardware(hardware), (candidates, self.hardware.layer.out_features)
        )
        latent = jnp.concatenate([final, mean, largest, main], -1)
        beside = [
            jnp.broadcast_to(whole, shared),
            WorldModel.pool_actions(actions),
            device,
        ]
        return self.head(latent, jnp.concatenate(beside, -1))


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


class _Feedforward(nnx.Module):
    """The linear layers that TenSet's MLP and TLP share."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.latent_width = width
        self.first = nnx.Linear(inputs, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.third = nnx.Linear(width, width, rngs=rngs)
        self.fourth = nnx.Linear(width, width, rngs=rngs)
        self.score = nnx.Linear(width, 1, rngs=rngs)

    @property
    def values_layer(self) -> nnx.Linear:
        """Returns the layer that reads the steps' values."""
        return self.first

    def encode(
        self, schedules: Schedules
    ) -> tuple[Float[Array, "candidate step column"], Bool[Array, "candidate step"]]:
        """Encodes each row of each candidate; says which rows are no padding."""
        x = nnx.relu(self.second(nnx.relu(self.first(schedules.values))))
        return x, jnp.arange(x.shape[1])[None, :] < schedules.length[:, None]

    def decode(self, x: Float[Array, "*batch column"]) -> Float[Array, "*batch column"]:
        """Applies two residual layers."""
        x = x + nnx.relu(self.third(x))
        return x + nnx.relu(self.fourth(x))


class TensetMlp(_Feedforward):
    """TenSet's MLP (NeurIPS'21): stores one by one, summed, then decoded; 0.24M parameters."""

    def __init__(self, *, rngs: nnx.Rngs, width: int = 256) -> None:
        super().__init__(STORE_WIDTH, width, rngs=rngs)

    def rank(
        self, graph: GraphArrays, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Ranking:
        """Ranks by stores; graph and hardware are not looked at."""
        x, live = self.encode(schedules)
        x = self.decode((x * live[..., None]).sum(1))
        return Ranking(self.score(x)[:, 0], x, x)


class Tlp(_Feedforward):
    """A TLP-style transformer over raw primitives: one attention block, about 0.6M parameters."""

    def __init__(self, *, rngs: nnx.Rngs, width: int = 256, heads: int = 8) -> None:
        super().__init__(TLP_WIDTH, width, rngs=rngs)
        self.heads = heads
        self.projections = nnx.Linear(width, 3 * width, rngs=rngs)
        self.merge = nnx.Linear(width, width, rngs=rngs)

    def rank(
        self, graph: GraphArrays, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Ranking:
        """Ranks by primitives; graph and hardware are not looked at."""
        x, live = self.encode(schedules)
        x = self.decode(self.merge(attend(self.projections(x), self.heads, live)))
        scores = self.score(x)[..., 0] * live
        pooled = (x * live[..., None]).sum(1)
        return Ranking(scores.sum(1), pooled, pooled)


_PATIENCE = 50


def train_trees(
    stores: Sequence[Stores],
    throughput: Float32[np.ndarray, "record"],
    seed: int,
    *,
    rounds: int = 2000,
    threads: int = 2,
) -> Any:
    """Trains on programs with at least one store.

    Args:
        stores: Per-store features of each record.
        throughput: Normalised within its workload, in [0, 1].
        seed: Seed of the trees.
        rounds: Most trees.
        threads: Threads to train with.

    Returns:
        An `xgboost.Booster`.
    """
    import xgboost
    from xgboost.callback import EarlyStopping

    rows, graph = _rows(stores)
    label = throughput[graph]
    matrix = xgboost.DMatrix(rows, label=label, weight=label)

    def objective(predicted: np.ndarray, _: Any) -> tuple[np.ndarray, np.ndarray]:
        total = np.bincount(graph, weights=predicted, minlength=len(stores))
        return (total[graph] - label) * label, label

    def error(predicted: np.ndarray, _: Any) -> tuple[str, float]:
        total = np.bincount(graph, weights=predicted, minlength=len(stores))
        known = np.unique(graph)
        return "rmse", float(np.sqrt(np.mean((total[known] - throughput[known]) ** 2)))

    parameters = {
        "max_depth": 10,
        "gamma": 0.001,
        "min_child_weight": 0,
        "eta": 0.2,
        "nthread": threads,
        "verbosity": 0,
        "seed": seed,
        "disable_default_eval_metric": 1,
    }
    stop = EarlyStopping(_PATIENCE, metric_name="rmse", data_name="train")
    return xgboost.train(
        parameters,
        matrix,
        num_boost_round=rounds,
        obj=objective,
        custom_metric=error,
        evals=[(matrix, "train")],
        callbacks=[stop],
        verbose_eval=False,
    )


def score_trees(booster: Any, stores: Sequence[Stores]) -> Float32[np.ndarray, "record"]:
    """Returns the predicted throughput of each program, 0 for one without stores."""
    import xgboost

    rows, graph = _rows(stores)
    predicted = booster.predict(xgboost.DMatrix(rows))
    return np.bincount(graph, weights=predicted, minlength=len(stores)).astype(np.float32)


def _rows(stores: Sequence[Stores]) -> tuple[np.ndarray, np.ndarray]:
    counts = [len(rows) for rows in stores]
    return np.concatenate(stores), np.repeat(np.arange(len(stores)), counts)
