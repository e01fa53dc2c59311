"""The loops that a schedule ends with, by this package's bookkeeping."""

import numpy as np

from cwm_jax.features.batch import split_step
from cwm_jax.features.step_features import Replay, StepFeatures
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.steps import ANNOTATIONS, Step

Loops = list[tuple[int, str]]
"""Extent and annotation, outermost first, loops of one iteration left out."""


def final_loops(program: ComputeGraph, schedule: tuple[Step, ...]) -> dict[str, Loops]:
    """Returns each block's own loops by the name that MetaSchedule gives it."""
    names = [None if s.kind == "placeholder" else s.name for s in program.stages]
    pieces = [split_step(step) for step in schedule]
    numbers = np.array([[number for _, found in pieces for number in found]], float)
    replay = Replay(program, numbers, StepFeatures.empty(1, len(schedule)))
    annotated: dict[int, str] = {}
    gone: set[int] = set()
    for at, ((shape, _), step) in enumerate(zip(pieces, schedule, strict=True)):
        stage = step.fields[0]
        nest = replay.state.nest(stage)
        if step.kind == "AN":
            annotated[id(nest.loops[step.fields[1]])] = ANNOTATIONS[step.fields[2]]
        replay.apply(at, shape)
        match step.kind:
            case "CHR":
                names.insert(stage + 1, None)
            case "CHW":
                names.insert(stage + 1, f"{names[stage]}_{step.fields[1]}")
            case "RF":
                names.insert(stage + 1, names[stage])
                names[stage] = f"{names[stage]}_rf"
            case "CI":
                gone.add(id(nest))
    return {
        name: [
            (int(loop.extent[0]), annotated.get(id(loop), "serial"))
            for loop in nest.loops
            if loop.extent[0] != 1
        ]
        for name, nest in zip(names, replay.state.nests, strict=True)
        if name is not None and id(nest) not in gone
    }
