"""The training loop."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from cwm_jax.evaluation.metrics import RankingMetrics, mean_metrics, rank_metrics
from cwm_jax.model.config import ModelConfig
from cwm_jax.model.world_model import WorldModel, create_model
from cwm_jax.ranking.scorer import Ranker
from cwm_jax.training.config import TrainingConfig
from cwm_jax.training.dataset import Batch, WorkloadData, batches
from cwm_jax.training.losses import listwise_loss, pairwise_loss


class Epoch(NamedTuple):
    """One line of the learning curves.

    Attributes:
        epoch: Counts from 1.
        loss: Mean training loss.
        top1: Validation top-1.
        top5: Validation top-5.
        pairwise: Validation pairwise accuracy.
        spearman: Validation rank correlation.
        seconds: Wall time of the epoch.
    """

    epoch: int
    loss: float
    top1: float
    top5: float
    pairwise: float
    spearman: float
    seconds: float


class Trained(NamedTuple):
    """A trained model: the parameters of the best epoch, and the curves."""

    model: WorldModel
    curves: list[Epoch]
    best_epoch: int


def train(
    dataset: Mapping[str, WorkloadData],
    training: Sequence[str],
    validation: Sequence[str],
    model_config: ModelConfig,
    config: TrainingConfig,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """Trains a model to rank the candidates of each workload.

    Args:
        dataset: Encoded workloads.
        training: Keys to train on.
        validation: Keys that decide when to stop; the last epoch is kept if there are none.
        model_config: Sizes of the model.
        config: Settings.
        report: Called after every epoch.
    """
    chosen = [dataset[key] for key in training]
    rng = np.random.default_rng(config.seed)
    steps_per_epoch = sum(1 for _ in _epoch(chosen, config, np.random.default_rng(config.seed)))
    graph, state = nnx.split(create_model(model_config, config.seed))
    optimizer = _optimizer(config, steps_per_epoch)
    optimizer_state = optimizer.init(state)
    update = _make_update(graph, optimizer, config)

    curves: list[Epoch] = []
    best, best_state, best_epoch = -np.inf, state, 0
    for number in range(1, config.epochs + 1):
        started = time.perf_counter()
        losses = []
        for batch in _epoch(chosen, config, rng):
            state, optimizer_state, loss = update(state, optimizer_state, batch)
            losses.append(loss)
        metrics = evaluate_model(nnx.merge(graph, state), dataset, validation)
        epoch = Epoch(
            number,
            float(np.mean(jax.device_get(losses))),
            metrics.top1,
            metrics.top5,
            metrics.pairwise,
            metrics.spearman,
            time.perf_counter() - started,
        )
        curves.append(epoch)
        report(epoch)
        quality = metrics.top1 + metrics.top5 + metrics.pairwise if validation else number
        if quality > best:
            best, best_state, best_epoch = quality, state, number
        elif number - best_epoch >= config.patience:
            break
    return Trained(nnx.merge(graph, best_state), curves, best_epoch)


def evaluate_model(
    model: WorldModel,
    dataset: Mapping[str, WorkloadData],
    keys: Sequence[str],
) -> RankingMetrics:
    """Returns mean ranking metrics over workloads."""
    rank = Ranker(model)
    return mean_metrics(
        [
            rank_metrics(
                rank(dataset[key].program, dataset[key].steps, dataset[key].hardware).score,
                dataset[key].latencies,
            )
            for key in keys
        ]
    )


def _epoch(chosen: Sequence[WorkloadData], config: TrainingConfig, rng: np.random.Generator) -> Any:
    return batches(chosen, lists=config.lists, candidates=config.candidates, rng=rng)


def _optimizer(config: TrainingConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    total = max(steps_per_epoch * config.epochs, 2)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(total // 10 + 1, 200), total, config.learning_rate / 50
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )


def _make_update(
    graph: Any,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
) -> Callable[[Any, Any, Batch], tuple[Any, Any, Float[Array, ""]]]:
    def loss_of(state: Any, batch: Batch) -> Float[Array, ""]:
        model: WorldModel = nnx.merge(graph, state)
        scores = jax.vmap(lambda p, s, h: model.rank(p, s, h).score)(
            batch.programs, batch.schedules, batch.hardware
        )
        pairwise = pairwise_loss(scores, batch.throughput, batch.valid)
        listwise = listwise_loss(scores, batch.throughput, batch.valid, config.temperature)
        return pairwise + config.listwise_weight * listwise

    @jax.jit
    def update(state: Any, optimizer_state: Any, batch: Batch) -> tuple[Any, Any, Any]:
        loss, gradient = jax.value_and_grad(loss_of)(state, batch)
        changes, optimizer_state = optimizer.update(gradient, optimizer_state, state)
        return optax.apply_updates(state, changes), optimizer_state, loss

    return update
