"""The training loop."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32

from cwm_jax.errors import CwmError, OutputError
from cwm_jax.features.graph import GraphArrays
from cwm_jax.model.ensemble import Ensemble, each_member
from cwm_jax.model.world_model import AlignedModel, Ranking, Schedules
from cwm_jax.ranking.metrics import RankingMetrics, mean_metrics, rank_metrics
from cwm_jax.ranking.scorer import Ranker
from cwm_jax.training.batching import (
    Batch,
    EpochBatches,
    data_mesh,
    load_batches,
    replicate,
    share_out,
)
from cwm_jax.training.config import TrainingConfig
from cwm_jax.training.dataset import (
    WorkloadData,
    absorb_scale,
    scale_of_values,
    standardise_targets,
)
from cwm_jax.training.losses import total_loss
from cwm_jax.training.snapshots import Position, Snapshots, run_identity


class Epoch(NamedTuple):
    """One line of the learning curves.

    Attributes:
        epoch: Counts from 1.
        loss: Mean training loss.
        top1: Mean top-1 over the watched workloads (`RankingMetrics`).
        top5: Mean top-5 over them.
        pairwise: Mean pairwise accuracy over them.
        spearman: Mean rank correlation over them.
        seconds: Wall time of the epoch.
    """

    epoch: int
    loss: float
    top1: float
    top5: float
    pairwise: float
    spearman: float
    seconds: float


class RankingModel(Protocol):
    """Any model that `train` can train: the world model, and the baselines."""

    @property
    def values_layer(self) -> nnx.Linear:
        """The layer that reads `Schedules.values`, and nothing else."""
        ...

    def rank(
        self, graph: GraphArrays, schedules: Schedules, hardware: Float[Array, "column"]
    ) -> Ranking:
        """Ranks candidates of one workload on one device."""
        ...


class Trained(NamedTuple):
    """A trained ensemble: the parameters of the last epoch, and the curves."""

    model: Ensemble
    curves: list[Epoch]


def train(
    dataset: Mapping[str, WorkloadData],
    training: Sequence[str],
    watched: Sequence[str],
    create: Callable[[int], nnx.Module],
    members: int,
    config: TrainingConfig,
    report: Callable[[Epoch], None] = lambda epoch: None,
    initial: Ensemble | None = None,
    snapshots: Snapshots | None = None,
) -> Trained:
    """Trains an ensemble to rank the candidates of each workload.

    The data set comes from `cwm_jax.training.dataset.build_dataset`; the result is saved by
    `cwm_jax.model.checkpoint.save_checkpoint`. For a world model:

        train(dataset, keys, [], lambda seed: create_model(sizes, seed), sizes.members, config)

    Training sees the steps' values at unit deviation, and the layer that reads them takes the
    scale over at the end: columns that seldom move, such as how evenly cores share a loop, were
    hardly learned (0.016 of pairwise accuracy on held-out networks).

    The learning rate falls to almost nothing over the epochs and the last parameters are kept:
    picking the epoch that ranks a tenth of the workloads best picked by chance, and cost 0.015 of
    pairwise accuracy on held-out networks.

    Args:
        dataset: Encoded workloads by name.
        training: Names of the workloads to train on.
        watched: Names of workloads whose metrics the curves show; training ignores them.
        create: Takes a seed and returns a model with fresh parameters, a `RankingModel`.
        members: Models of the ensemble. They differ in their first parameters and in how much
            each workload counts (a Bayesian bootstrap, Rubin 1981); for a single one all
            workloads count alike.
        config: Settings.
        report: Called after every epoch.
        initial: Members to continue from, in place of fresh ones.
        snapshots: Saves the run while it is under way. A stopped run continues from its latest
            snapshot, to the same parameters as if it had not been stopped.

    Returns:
        The ensemble with the parameters of the last epoch, and the learning curves.

    Raises:
        CheckpointError: A snapshot is of another run, or cannot be read or written.
    """
    chosen = standardise_targets([dataset[key] for key in training])
    rng = np.random.default_rng(config.seed)
    steps_per_epoch = len(_epoch(chosen, config, np.random.default_rng(config.seed)))
    aligned = chosen[0].alignment.shape[1] > 0
    seeds = range(config.seed * members, (config.seed + 1) * members)
    scale = scale_of_values(chosen)
    models = (
        absorb_scale(initial.models(), 1 / scale) if initial else [create(seed) for seed in seeds]
    )
    members_of = zip(models, seeds, strict=True)
    fresh = Ensemble.of([AlignedModel(model, seed, aligned=aligned) for model, seed in members_of])
    mesh = data_mesh(config.lists)
    ensemble = replicate(fresh, mesh)
    optimizer = _optimizer(config, steps_per_epoch)
    optimizer_state = replicate(jax.vmap(optimizer.init)(fresh), mesh)  # type: ignore[arg-type]
    shape = (members, len(chosen))
    emphasis = rng.exponential(size=shape) if members > 1 else np.ones(shape)
    constant = replicate(Constant(scale, emphasis.astype(np.float32)), mesh)
    update = _make_update(optimizer, config)
    position = Position(1, 0, [], [], dict(rng.bit_generator.state))
    run = run_identity(config, chosen, fresh)
    if snapshots and (found := snapshots.restore(run, (fresh, optimizer_state))):
        restored, position = found
        ensemble, optimizer_state = replicate(restored, mesh)

    def finished() -> Ensemble:
        here = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), ensemble)
        models = [member.model for member in here.models()]
        return Ensemble.of(absorb_scale(models, scale))

    curves = [Epoch(**line) for line in position.curves]  # type: ignore[arg-type]
    while position.epoch <= config.epochs:
        started = time.perf_counter()
        rng.bit_generator.state = position.generator
        losses: list[Any] = list(position.losses)
        for batch in load_batches(_epoch(chosen, config, rng), position.batch):
            shares = share_out(batch, mesh)
            ensemble, optimizer_state, loss = update(ensemble, optimizer_state, constant, shares)
            losses.append(loss)
            if snapshots and snapshots.due():
                step = (position.epoch - 1) * steps_per_epoch + len(losses)
                here = position._replace(batch=len(losses), losses=_as_lists(losses))
                snapshots.save(run, step, (ensemble, optimizer_state), here)
        metrics = evaluate_model(finished(), dataset, watched)
        epoch = Epoch(
            position.epoch,
            float(np.mean(_as_lists(losses))),
            metrics.top1,
            metrics.top5,
            metrics.pairwise,
            metrics.spearman,
            time.perf_counter() - started,
        )
        curves.append(epoch)
        report(epoch)
        lines = [line._asdict() for line in curves]
        position = Position(position.epoch + 1, 0, [], lines, dict(rng.bit_generator.state))
    return Trained(finished(), curves)


def _as_lists(losses: Sequence[Any]) -> list[list[float]]:
    return [np.asarray(loss).tolist() for loss in losses]


def evaluate_model(
    model: Ensemble,
    dataset: Mapping[str, WorkloadData],
    keys: Sequence[str],
) -> RankingMetrics:
    """Returns mean ranking metrics over workloads."""
    rank = Ranker(model)
    return mean_metrics(
        [
            rank_metrics(
                rank(dataset[key].graph, dataset[key].steps, dataset[key].hardware).score,
                dataset[key].latencies,
            )
            for key in keys
        ]
    )


def _epoch(
    chosen: Sequence[WorkloadData], config: TrainingConfig, rng: np.random.Generator
) -> EpochBatches:
    return EpochBatches(chosen, lists=config.lists, candidates=config.candidates, rng=rng)


def _optimizer(config: TrainingConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    total = max(steps_per_epoch * config.epochs, 2)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(total // 10 + 1, 200), total, config.learning_rate / 50
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )


class Constant(NamedTuple):
    """Arrays that are constant during a run, but are inputs of the compiled update.

    Attributes:
        scale: Factor of each column of the steps' values.
        emphasis: How much each workload counts for each member.
    """

    scale: Float32[np.ndarray, "column"]
    emphasis: Float32[np.ndarray, "member workload"]


def _make_update(
    optimizer: optax.GradientTransformation, config: TrainingConfig
) -> Callable[[Ensemble, Any, Constant, Batch], tuple[Ensemble, Any, Float[Array, "member"]]]:
    def loss_of(member: Ensemble, constant: Constant, batch: Batch) -> Float[Array, ""]:
        both: AlignedModel = _as_type(member, config.precision).merge()
        schedules = batch.schedules._replace(values=batch.schedules.values * constant.scale)
        inputs = _as_type((batch.graphs, schedules, batch.hardware), config.precision)
        ranking = _as_type(jax.vmap(both.model.rank)(*inputs), "float32")
        predicted = both.alignment(ranking.latent) if both.alignment else None
        return total_loss(ranking, predicted, batch, constant.emphasis[batch.workload], config)

    @partial(jax.jit, donate_argnames=("ensemble", "optimizer_state"))
    def update(
        ensemble: Ensemble, optimizer_state: Any, constant: Constant, batch: Batch
    ) -> tuple[Ensemble, Any, Any]:
        def update_member(
            member: Ensemble, optimizer_state: Any, emphasis: Any
        ) -> tuple[Ensemble, Any, Any]:
            own = Constant(constant.scale, emphasis)
            loss, gradient = jax.value_and_grad(loss_of)(member, own, batch)
            changes, optimizer_state = optimizer.update(gradient, optimizer_state, member)  # type: ignore[arg-type]
            return optax.apply_updates(member, changes), optimizer_state, loss  # type: ignore[arg-type]

        return each_member(update_member, ensemble, optimizer_state, constant.emphasis)

    return update


def _as_type(tree: Any, dtype: str) -> Any:
    """Casts the floating-point arrays of a tree."""
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def write_curves(folder: Path, curves: Sequence[Epoch]) -> None:
    """Writes an event file that TensorBoard reads.

    Args:
        folder: Where TensorBoard looks.
        curves: One line an epoch.

    Raises:
        CwmError: The `tensorboard` extra is not installed, or the folder cannot be written.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise CwmError("--tensorboard: pip install 'cwm-jax[tensorboard]' first") from error
    try:
        with SummaryWriter(str(folder)) as writer:
            for epoch in curves:
                for name, value in epoch._asdict().items():
                    if name != "epoch":
                        writer.add_scalar(name, value, epoch.epoch)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error})") from error
