"""Inputs and alignment targets at unit scale, while a model trains."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from cwm_jax.training.dataset import WorkloadData

_CONSTANT = 1e-3
_LEAST_DEVIATION = 0.1
_ROUNDING = 1e-12


def scale_of_values(chosen: Sequence[WorkloadData]) -> Float32[np.ndarray, "column"]:
    """Returns what brings each column of the steps' values to unit deviation.

    A column that deviates by less than a tenth is scaled as if it deviated by that, and one that
    never moves is left alone.
    """
    width = chosen[0].steps.values.shape[-1]
    count, total, squares = 0, np.zeros(width), np.zeros(width)
    for workload in chosen:
        steps = workload.steps
        live = np.arange(steps.kind.shape[1]) < steps.length[:, None]
        values = np.asarray(steps.values)[live].astype(np.float64)
        count += len(values)
        total += values.sum(0)
        squares += (values**2).sum(0)
    variance = squares / count - (total / count) ** 2
    # Rounding leaves something of a column that never moves.
    deviation = np.sqrt(np.where(variance > _ROUNDING, variance, 0))
    scale = np.where(deviation > 0, 1 / np.maximum(deviation, _LEAST_DEVIATION), 1)
    return scale.astype(np.float32)


def absorb_scale(models: Sequence[Any], scale: Float32[np.ndarray, "column"]) -> list[Any]:
    """Changes models to read values as they read values times `scale` before; returns them."""
    for model in models:
        kernel = model.values_layer.kernel
        kernel[...] = kernel[...] * scale[:, None]
    return list(models)


def standardise_targets(chosen: Sequence[WorkloadData]) -> list[WorkloadData]:
    """Brings alignment targets to mean 0 and deviation 1; constant columns become 0.

    Where some workloads have targets, the others get unknown ones, so that all fit one batch.
    """
    width = max(workload.alignment.shape[1] for workload in chosen)
    targets = [
        workload.alignment
        if workload.alignment.shape[1] == width
        else np.full((len(workload.latencies), width), np.nan, np.float32)
        for workload in chosen
    ]
    together = np.concatenate(targets)
    known = together[np.isfinite(together).all(1)].astype(np.float64)
    if width == 0 or len(known) == 0:
        return list(chosen)
    deviation = known.std(0)
    scale = np.where(deviation > _CONSTANT, 1 / np.maximum(deviation, _CONSTANT), 0)
    return [
        dataclasses.replace(
            workload, alignment=((target - known.mean(0)) * scale).astype(np.float32)
        )
        for workload, target in zip(chosen, targets, strict=True)
    ]
