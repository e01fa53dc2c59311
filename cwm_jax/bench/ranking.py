"""Models side by side: the same records, the same split, the same metrics."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32

from cwm_jax.bench.baselines import (
    SEQUENCE_KINDS,
    SequenceKind,
    SequenceModel,
    TensetMlp,
    Tlp,
    score_trees,
    tokens_of_primitives,
    tokens_of_stores,
    train_trees,
)
from cwm_jax.bench.offline_search import replay_summary
from cwm_jax.features.batch import StepArrays
from cwm_jax.features.columns import COLUMNS, STATED, STEP_WIDTH
from cwm_jax.model.world_model import ModelConfig, WorldModel, create_model
from cwm_jax.ranking.metrics import mean_metrics, rank_metrics, weighted_top_k
from cwm_jax.ranking.scorer import Ranker
from cwm_jax.ranking.scorer import Scores as CandidateScores
from cwm_jax.records.record import Record
from cwm_jax.records.store_features import Stores
from cwm_jax.training.config import TrainingConfig
from cwm_jax.training.dataset import NetworkSplit, WorkloadData, teach
from cwm_jax.training.loop import train

Scores = dict[str, Float32[np.ndarray, "candidate"]]
Dataset = Mapping[str, WorkloadData]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Records of one device, in every form that some model takes.

    Attributes:
        dataset: Encoded for the world model, by workload.
        records: The same records, in the same order.
        stores: Their lowered programs' features, in the same order.
    """

    dataset: Dataset
    records: Mapping[str, Sequence[Record]]
    stores: Mapping[str, Sequence[Stores]]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained model's scores of the test workloads, and what they cost.

    Attributes:
        scores: Higher is better, by workload.
        parameters: Trained numbers; nodes of all trees for boosted trees.
        train_seconds: Wall time of the training.
        score_seconds: Wall time of scoring the test set from arrays, compiled before.
        features: What the model adapts on, by workload; None if it does not adapt.
    """

    scores: Scores
    parameters: int
    train_seconds: float
    score_seconds: float
    features: Mapping[str, Float32[np.ndarray, "candidate feature"]] | None = None


Fit = Callable[[Corpus, Sequence[str], Sequence[str], int], Fitted]
"""Corpus, training and test keys, seed -> scores of the test keys."""


class WithoutActions(WorldModel):
    """The world model whose head sees no pooled actions, only the terminal latent."""

    @staticmethod
    def pool_actions(
        actions: Float[Array, "candidate step action"],
    ) -> Float[Array, "candidate sums"]:
        """Returns zeros in place of the pooled actions."""
        return 0 * WorldModel.pool_actions(actions)


def contenders() -> dict[str, Fit]:
    """Returns all models of the table by name.

    Ablations have one member, to be compared with `ablation-one-member`; the bag of steps is
    also there as an ensemble as large as the world model's. `distilled` is one member that an
    ensemble like the world model's has taught.
    """
    config = ModelConfig()
    world = lambda seed: create_model(config, seed)  # noqa: E731
    one: dict[str, Fit] = {
        "one-member": _neural(world, members=1),
        "no-alignment": _neural(world, changes={"alignment_weight": 0.0}, members=1),
        "no-ratios": _neural(world, changes={"ratio_weight": 0.0}, members=1),
        "shuffled-steps": _neural(world, view=_shuffle_steps, members=1),
        "no-program": _neural(world, view=_without_graph, members=1),
        "no-hardware": _neural(world, view=_without_hardware, members=1),
        "no-actions": _neural(lambda seed: WithoutActions(config, rngs=nnx.Rngs(seed)), members=1),
        "raw-steps": _neural(world, view=_raw_steps, members=1),
        "raw-bag": _neural(_sequence("bag", config), view=_raw_steps, members=1),
        "half-data": _neural(world, share=0.5, members=1),
        "quarter-data": _neural(world, share=0.25, members=1),
    }
    for kind in SEQUENCE_KINDS:
        name = "one-member-bag" if kind == "bag" else kind
        one[name] = _neural(_sequence(kind, config), members=1)
    return {
        "world-model": _neural(world),
        "distilled": _neural(world, members=1, teachers=config.members),
        "ablation-bag": _neural(_sequence("bag", config)),
        **{f"ablation-{name}": fit for name, fit in one.items()},
        "tenset-mlp": _neural(
            lambda seed: TensetMlp(rngs=nnx.Rngs(seed)),
            view=_as_stores,
            changes=_RANKING,
            members=1,
        ),
        "tlp": _neural(
            lambda seed: Tlp(rngs=nnx.Rngs(seed)), view=_as_primitives, changes=_RANKING, members=1
        ),
        "xgboost": _fit_trees,
        "random": _guess,
    }


def _sequence(kind: SequenceKind, config: ModelConfig) -> Callable[[int], SequenceModel]:
    return lambda seed: SequenceModel(kind, config, rngs=nnx.Rngs(seed))


# Published models learn to rank by differences of throughput, and nothing beside it.
_RANKING = {"alignment_weight": 0.0, "ratio_weight": 0.0}


def _neural(
    create: Callable[[int], nnx.Module],
    *,
    view: Callable[[Corpus, str], WorkloadData] = lambda corpus, key: corpus.dataset[key],
    changes: Mapping[str, float] = MappingProxyType({}),
    members: int = ModelConfig().members,
    share: float = 1.0,
    teachers: int = 0,
) -> Fit:
    """Returns how a model is trained.

    Args:
        create: Seed -> a model with fresh parameters.
        view: Returns what the model sees of a workload.
        changes: Changed settings.
        members: Models of the ensemble.
        share: Share of the workloads to train on, with as many updates.
        teachers: Members of an ensemble that is trained first, and teaches it; 0 for none.
    """

    def fit(
        corpus: Corpus,
        training: Sequence[str],
        test: Sequence[str],
        seed: int,
    ) -> Fitted:
        if share < 1:
            drawn: list[int] = np.random.default_rng(seed).permutation(len(training)).tolist()
            training = [training[at] for at in drawn[: round(share * len(training))]]
        dataset = {key: view(corpus, key) for key in (*training, *test)}
        epochs = round(TrainingConfig().epochs / share)
        config = TrainingConfig(seed=seed, epochs=epochs, **changes)  # type: ignore[arg-type]
        started = time.perf_counter()
        if teachers:
            teacher = train(dataset, training, (), create, teachers, config).model
            dataset |= teach({key: dataset[key] for key in training}, teacher)
        model = train(dataset, training, (), create, members, config).model
        seconds = time.perf_counter() - started
        rank = Ranker(model)

        def score() -> dict[str, CandidateScores]:
            return {
                key: rank(dataset[key].graph, dataset[key].steps, dataset[key].hardware)
                for key in test
            }

        score()
        started = time.perf_counter()
        found = score()
        elapsed = time.perf_counter() - started
        scores = {key: ranked.score for key, ranked in found.items()}
        features = {key: ranked.features for key, ranked in found.items()}
        return Fitted(scores, model.parameter_count, seconds, elapsed, features)

    return fit


def _shuffle_steps(corpus: Corpus, key: str) -> WorkloadData:
    workload = corpus.dataset[key]
    steps = workload.steps
    rng = np.random.default_rng(len(key))
    order = np.tile(np.arange(steps.kind.shape[1]), (len(steps.length), 1))
    for row, length in zip(order, steps.length, strict=True):
        row[:length] = rng.permutation(int(length))
    rows = np.arange(len(order))[:, None]
    shuffled = StepArrays(
        *(array[rows, order] for array in (steps.kind, steps.tag, steps.stage, steps.other)),
        values=steps.values[rows, order],
        length=steps.length,
        slots=steps.slots,
    )
    return dataclasses.replace(workload, steps=shuffled)


def _raw_steps(corpus: Corpus, key: str) -> WorkloadData:
    """Keeps the fields of a step, and leaves out what replaying the schedule adds."""
    workload = corpus.dataset[key]
    own = np.zeros(STEP_WIDTH, np.float32)
    own[[COLUMNS[name] for name in STATED]] = 1
    return dataclasses.replace(
        workload, steps=dataclasses.replace(workload.steps, values=workload.steps.values * own)
    )


def _without_graph(corpus: Corpus, key: str) -> WorkloadData:
    workload = corpus.dataset[key]
    return dataclasses.replace(
        workload, graph=type(workload.graph)(*(0 * array for array in workload.graph))
    )


def _without_hardware(corpus: Corpus, key: str) -> WorkloadData:
    workload = corpus.dataset[key]
    return dataclasses.replace(workload, hardware=0 * workload.hardware)


def _as_stores(corpus: Corpus, key: str) -> WorkloadData:
    return _with_tokens(corpus.dataset[key], tokens_of_stores(corpus.stores[key]))


def _as_primitives(corpus: Corpus, key: str) -> WorkloadData:
    return _with_tokens(
        corpus.dataset[key], tokens_of_primitives([record.steps for record in corpus.records[key]])
    )


def _with_tokens(workload: WorkloadData, tokens: StepArrays) -> WorkloadData:
    """Slots mean nothing to a model over tokens: one padded size serves all workloads."""
    graph = type(workload.graph)(
        workload.graph.stages[: tokens.slots] * 0,
        workload.graph.present[: tokens.slots] * 0,
        workload.graph.reads[: tokens.slots, : tokens.slots] * 0,
        workload.graph.whole * 0,
    )
    return dataclasses.replace(workload, steps=tokens, graph=graph)


def _fit_trees(
    corpus: Corpus,
    training: Sequence[str],
    test: Sequence[str],
    seed: int,
) -> Fitted:
    stores = [rows for key in training for rows in corpus.stores[key]]
    throughput = np.concatenate([corpus.dataset[key].throughput for key in training])
    started = time.perf_counter()
    booster = train_trees(stores, throughput, seed)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    scores = {key: score_trees(booster, corpus.stores[key]) for key in test}
    nodes = sum(len(tree.splitlines()) for tree in booster.get_dump())
    return Fitted(scores, nodes, seconds, time.perf_counter() - started)


def _guess(
    corpus: Corpus,
    training: Sequence[str],
    test: Sequence[str],
    seed: int,
) -> Fitted:
    rng = np.random.default_rng(seed)
    scores = {key: rng.random(len(corpus.records[key]), np.float32) for key in test}
    return Fitted(scores, 0, 0.0, 0.0)


def judge(corpus: Corpus, split: NetworkSplit, fitted: Fitted) -> dict[str, Any]:
    """Returns the row of the table: top-k by network weight, the rest as means over workloads.

    Args:
        corpus: The records.
        split: Held-out networks.
        fitted: Scores of their workloads.
    """
    latencies = {key: corpus.dataset[key].latencies for key in fitted.scores}
    networks: dict[str, dict[str, float]] = {}
    for network, weights in split.test.items():
        covered = [key for key in weights if key in fitted.scores]
        if not covered:
            continue
        scores = {key: fitted.scores[key] for key in covered}
        networks[network] = {
            f"top{k}": weighted_top_k(scores, latencies, weights, k) for k in (1, 5)
        } | {"tasks": len(weights), "covered": len(covered)}
    total: dict[str, float] = {}
    for weights in split.test.values():
        for key, count in weights.items():
            if key in fitted.scores:
                total[key] = total.get(key, 0) + count
    means = mean_metrics([rank_metrics(fitted.scores[key], latencies[key]) for key in total])
    scores = {key: fitted.scores[key] for key in total}
    candidates = sum(len(latencies[key]) for key in total)
    return {
        "top1": weighted_top_k(scores, latencies, total, 1),
        "top5": weighted_top_k(scores, latencies, total, 5),
        "top1_unweighted": means.top1,
        "top5_unweighted": means.top5,
        "pairwise": means.pairwise,
        "spearman": means.spearman,
        "tasks": len(total),
        "candidates": candidates,
        "parameters": fitted.parameters,
        "train_seconds": round(fitted.train_seconds, 1),
        "candidates_per_second": candidates / fitted.score_seconds
        if fitted.score_seconds
        else None,
        "networks": networks,
        **replay_summary(fitted.scores, fitted.features, latencies),
    }
