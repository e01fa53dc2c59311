"""What a schedule does, summed up without any learned weight.

Online adaptation regresses on it: the learned features of candidates that score alike are alike,
too, and cannot tell which of them is faster.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cwm_jax.features.program import STAGE_COLUMNS, ProgramArrays
from cwm_jax.model.inputs import Schedules

_WORK = STAGE_COLUMNS.index("log_points")


def main_slot(program: ProgramArrays) -> Int[Array, ""]:
    """Returns the slot of the stage that does the most work."""
    work = jnp.asarray(program.stages)[:, _WORK] * jnp.asarray(program.present)
    return work.argmax()


def summarise_steps(
    program: ProgramArrays, schedules: Schedules
) -> Float[Array, "candidate summary"]:
    """Returns the steps' values summed, at their largest, and summed over the main stage.

    Args:
        program: The program.
        schedules: Candidates of it.
    """
    steps = schedules.kind.shape[1]
    live = jnp.arange(steps)[None, :] < schedules.length[:, None]
    values = jnp.asarray(schedules.values) * live[..., None]
    of_main = values * (schedules.stage == main_slot(program))[..., None]
    return jnp.concatenate([values.sum(1), values.max(1, initial=0), of_main.sum(1)], -1)
