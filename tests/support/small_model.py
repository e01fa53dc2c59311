"""Sizes of a model that is quick to compile, and inputs for it."""

import numpy as np

from cwm_jax.features.batch import StepArrays
from cwm_jax.features.hardware import encode_hardware, load_hardware
from cwm_jax.model.world_model import ModelConfig
from support.graphs import SHAPE_ONLY, matmul

CONFIG = ModelConfig(latent_width=16, action_width=16, hardware_width=4, head_width=16, members=2)
CARD = load_hardware("cpu-x86-2core")
HARDWARE = encode_hardware(CARD)
PROGRAMS = (SHAPE_ONLY, matmul(64, 96, 32))


def padded(arrays: StepArrays, extra: int) -> StepArrays:
    """The same schedules with more padding steps, which hold garbage."""
    rng = np.random.default_rng(0)

    def pad(array: np.ndarray) -> np.ndarray:
        shape = (array.shape[0], extra, *array.shape[2:])
        noise = rng.integers(0, 3, shape).astype(array.dtype)
        return np.concatenate([array, noise], axis=1)

    return StepArrays(
        pad(arrays.kind),
        pad(arrays.tag),
        pad(arrays.stage),
        pad(arrays.other),
        pad(arrays.values),
        arrays.length,
        arrays.slots,
    )
