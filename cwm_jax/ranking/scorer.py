"""Batched, jitted scoring of candidates."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Float32

from cwm_jax.compilation import keep_compiled_programs
from cwm_jax.features.buckets import bucket
from cwm_jax.features.hardware import HardwareCard, encode_hardware, load_hardware
from cwm_jax.features.program import ProgramArrays, encode_program
from cwm_jax.features.steps import Groups, StepArrays, encode_groups, group_schedules
from cwm_jax.model.checkpoint import load_checkpoint
from cwm_jax.model.ensemble import Ensemble, EnsembleRanking, rank_together
from cwm_jax.model.inputs import Schedules
from cwm_jax.model.locations import find_checkpoint
from cwm_jax.ranking.pairing import warn_of_engine, warn_of_target
from cwm_jax.records.program import Program, shape_only_program
from cwm_jax.records.record import Record
from cwm_jax.records.steps import Step

BATCH_BUCKETS = (64, 512, 2048)
"""Padded batch sizes; larger batches are cut into the largest."""


class Scores(NamedTuple):
    """Scores of candidates in the order given.

    Attributes:
        score: Higher is faster; comparable within one workload only.
        members: Scores of each member of the ensemble, whose mean is the score.
        features: What online adaptation regresses on.
    """

    score: Float32[np.ndarray, "candidate"]
    members: Float32[np.ndarray, "candidate member"]
    features: Float32[np.ndarray, "candidate feature"]


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Returns the scores of several lists of candidates as one."""
    return Scores(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def take_scores(scores: Scores, rows: np.ndarray | Sequence[int]) -> Scores:
    """Returns the scores of some candidates, by position or mask."""
    index = np.asarray(rows)
    return Scores(*(array[index if len(index) else slice(0)] for array in scores))


def no_scores() -> Scores:
    """Returns the scores of no candidates."""
    none = np.zeros((0, 0), np.float32)
    return Scores(np.zeros(0, np.float32), none, none)


class Ranker:
    """An ensemble compiled for a few padded batch sizes; local devices share each batch."""

    def __init__(self, model: Ensemble) -> None:
        devices = jax.local_devices()
        count = max(n for n in range(1, len(devices) + 1) if BATCH_BUCKETS[0] % n == 0)
        axis = ("candidates",), (AxisType.Auto,)
        mesh = jax.make_mesh((count,), *axis, devices=devices[:count])
        self._shared_out = NamedSharding(mesh, PartitionSpec("candidates"))
        self._state = jax.device_put(model.state, NamedSharding(mesh, PartitionSpec()))
        self._rank = _compiled_rank(model.graph)

    def __call__(
        self, program: ProgramArrays, steps: StepArrays, hardware: Float32[np.ndarray, "column"]
    ) -> Scores:
        """Ranks encoded schedules of one program on one device."""
        total = len(steps.length)
        parts: list[Scores] = []
        for start in range(0, total, BATCH_BUCKETS[-1]):
            chunk = np.arange(start, min(start + BATCH_BUCKETS[-1], total))
            size = bucket(len(chunk), BATCH_BUCKETS)
            padded = steps.take(np.concatenate([chunk, np.full(size - len(chunk), chunk[0])]))
            schedules = Schedules(*(getattr(padded, name) for name in Schedules._fields))
            schedules = jax.device_put(schedules, self._shared_out)
            ranking = self._rank(self._state, program, schedules, hardware)
            parts.append(Scores(*(np.asarray(array)[: len(chunk)] for array in ranking)))
        return join_scores(parts) if parts else no_scores()


class Scorer:
    """Ranks candidates with one checkpoint's model for one device.

    Args:
        model: The ensemble.
        hardware: The device to rank for.
        engines: Whose steps the model was trained on.
    """

    def __init__(
        self, model: Ensemble, hardware: HardwareCard, engines: Sequence[str] = ("ansor",)
    ) -> None:
        self._ranker = Ranker(model)
        self.hardware = hardware
        self.engines = tuple(engines)
        self._hardware_vector = encode_hardware(hardware)

    @classmethod
    def load(cls, checkpoint: Path | str, hardware: str | None = None) -> "Scorer":
        """Loads a checkpoint.

        Args:
            checkpoint: Name of a shipped one, or a folder.
            hardware: Name or path of the card of the device to rank for; the checkpoint's own
                by default.

        Raises:
            CheckpointError: It is missing, truncated, or does not fit this version.
            HardwareError: There is no such hardware card.
        """
        keep_compiled_programs()
        loaded = load_checkpoint(find_checkpoint(str(checkpoint)))
        card = load_hardware(hardware) if hardware else loaded.hardware
        return cls(loaded.model, card, loaded.card.get("engines", ("ansor",)))

    def score(
        self, records: Sequence[Record], programs: Mapping[str, Program] | None = None
    ) -> Float32[np.ndarray, "record"]:
        """Scores records of any workloads.

        Args:
            records: Records; their measurements are not looked at.
            programs: Compute graphs by workload key; workloads without one are scored from
                their shapes.

        Returns:
            A score for each record, higher is better, comparable within a workload.

        Warns:
            PairingWarning: Records are of another device or engine than the model ranks for.
        """
        rows: dict[str, list[int]] = defaultdict(list)
        for at, record in enumerate(records):
            rows[record.workload_key].append(at)
        scores = np.zeros(len(records), np.float32)
        for key, members in rows.items():
            program = (programs or {}).get(key) or shape_only_program(key)
            first = records[members[0]]
            warn_of_target(self.hardware, first.target, first.cores)
            warn_of_engine(self.engines, first.engine)
            schedules = [records[at].steps for at in members]
            scores[members] = self.rank_schedules(program, schedules).score
        return scores

    def rank_schedules(self, program: Program, schedules: Sequence[tuple[Step, ...]]) -> Scores:
        """Scores schedules of one program."""
        return self.rank_groups(program, group_schedules(schedules))

    def rank_groups(self, program: Program, groups: Groups) -> Scores:
        """Scores schedules of one program that are grouped by structure, in their rows' order."""
        steps = encode_groups(groups, program)
        return self.rank_arrays(encode_program(program, steps.slots), steps)

    def rank_arrays(self, program: ProgramArrays, steps: StepArrays) -> Scores:
        """Scores encoded schedules of one program."""
        return self._ranker(program, steps, self._hardware_vector)


@lru_cache(maxsize=8)
def _compiled_rank(graph: Any) -> Callable[..., EnsembleRanking]:
    return jax.jit(partial(rank_together, graph))
