"""Ansor's XGBoost model on TVM's per-store features, from extracted features.

The objective, weights and parameters are those of
`python/tvm/auto_scheduler/cost_model/xgb_model.py`: a program's prediction is the sum over its
stores, the squared error to the normalised throughput is weighted by that throughput, and
boosting stops when the training error has not fallen for 50 rounds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from cwm_jax.records.store_features import Stores

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
        seed: Of the trees.
        rounds: Most trees.
        threads: To train with.

    Returns:
        An `xgboost.Booster`.
    """
    import xgboost
    from xgboost.callback import EarlyStopping

    rows, program = _rows(stores)
    label = throughput[program]
    matrix = xgboost.DMatrix(rows, label=label, weight=label)

    def objective(predicted: np.ndarray, _: Any) -> tuple[np.ndarray, np.ndarray]:
        total = np.bincount(program, weights=predicted, minlength=len(stores))
        return (total[program] - label) * label, label

    def error(predicted: np.ndarray, _: Any) -> tuple[str, float]:
        total = np.bincount(program, weights=predicted, minlength=len(stores))
        known = np.unique(program)
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

    rows, program = _rows(stores)
    predicted = booster.predict(xgboost.DMatrix(rows))
    return np.bincount(program, weights=predicted, minlength=len(stores)).astype(np.float32)


def _rows(stores: Sequence[Stores]) -> tuple[np.ndarray, np.ndarray]:
    counts = [len(rows) for rows in stores]
    return np.concatenate(stores), np.repeat(np.arange(len(stores)), counts)
