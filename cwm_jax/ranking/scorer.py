"""Batched, jitted scoring of candidates."""

import dataclasses
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Float32, Int32

from cwm_jax.compilation import keep_compiled_programs
from cwm_jax.features.batch import (
    Groups,
    StepArrays,
    bucket,
    cut_groups,
    encode_groups,
    group_schedules,
)
from cwm_jax.features.graph import GraphArrays, encode_graph
from cwm_jax.features.hardware import HardwareCard, encode_hardware, load_hardware
from cwm_jax.model.checkpoint import find_checkpoint, load_checkpoint
from cwm_jax.model.ensemble import Ensemble, EnsembleRanking
from cwm_jax.model.world_model import Schedules
from cwm_jax.ranking.catalog import warn_of_missing_graph, warn_of_records, warn_of_unknown_kinds
from cwm_jax.records.graph import ComputeGraph, shape_only_graph
from cwm_jax.records.record import Record
from cwm_jax.records.steps import STEP_KINDS, Step

BATCH_BUCKETS = (64, 512, 1024, 2048)
"""Padded batch sizes; larger batches are cut into the largest."""

_AHEAD = 2
"""Batches that wait for the device while more are encoded."""


class Scores(NamedTuple):
    """Scores of candidates in the order given.

    Attributes:
        score: Higher is faster; comparable within one workload only.
        members: Scores of each member of the ensemble, whose mean is the score.
        features: What online adaptation regresses on.
        actions: What it regresses on where the model is not trusted
            (`cwm_jax.model.ensemble.EnsembleRanking`).
    """

    score: Float32[np.ndarray, "candidate"]
    members: Float32[np.ndarray, "candidate member"]
    features: Float32[np.ndarray, "candidate feature"]
    actions: Float32[np.ndarray, "candidate sum"]


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
    return Scores(np.zeros(0, np.float32), none, none, none)


_rank = jax.jit(Ensemble.rank)


class Ranker:
    """An ensemble compiled for a few padded batch sizes; local devices share each batch."""

    def __init__(self, model: Ensemble) -> None:
        devices = jax.local_devices()
        count = max(n for n in range(1, len(devices) + 1) if BATCH_BUCKETS[0] % n == 0)
        axis = ("candidates",), (AxisType.Auto,)
        mesh = jax.make_mesh((count,), *axis, devices=devices[:count])
        self._shared_out = NamedSharding(mesh, PartitionSpec("candidates"))
        self._model = jax.device_put(model, NamedSharding(mesh, PartitionSpec()))

    def __call__(
        self, graph: GraphArrays, steps: StepArrays, hardware: Float32[np.ndarray, "column"]
    ) -> Scores:
        """Ranks encoded schedules of one program on one device."""
        return self.rank_all([(graph, steps)], hardware)

    def rank_all(
        self,
        encoded: Iterable[tuple[GraphArrays, StepArrays]],
        hardware: Float32[np.ndarray, "column"],
    ) -> Scores:
        """Ranks batches of encoded schedules on one device, and joins their scores.

        While the device ranks one batch, the iterable makes the next.

        Args:
            encoded: Programs and their schedules.
            hardware: The encoded hardware card.
        """
        parts: list[Scores] = []
        under_way: deque[tuple[int, EnsembleRanking]] = deque()
        for graph, steps in encoded:
            for count, padded in _chunks(steps):
                ranking = _rank(self._model, graph, self._moved(padded), hardware)
                under_way.append((count, ranking))
                if len(under_way) > _AHEAD:
                    parts.append(_await(*under_way.popleft()))
        parts += [_await(*started) for started in under_way]
        return join_scores(parts) if parts else no_scores()

    def _moved(self, steps: StepArrays) -> Schedules:
        """Shares schedules out to the devices."""
        schedules = Schedules(*(getattr(steps, name) for name in Schedules._fields))
        return jax.device_put(schedules, self._shared_out)


def _chunks(steps: StepArrays) -> Iterator[tuple[int, StepArrays]]:
    """Cuts schedules into padded batches, each with its count."""
    total = len(steps.length)
    for start in range(0, total, BATCH_BUCKETS[-1]):
        chunk = np.arange(start, min(start + BATCH_BUCKETS[-1], total))
        size = bucket(len(chunk), BATCH_BUCKETS)
        padding = np.full(size - len(chunk), chunk[0])
        padded = steps.take(np.concatenate([chunk, padding])) if size != total else steps
        arrays = {name: _in_memory(getattr(padded, name)) for name in Schedules._fields}
        yield len(chunk), dataclasses.replace(padded, **arrays)


def _in_memory(array: Any) -> Any:
    """Reads an array of a data set that is kept on disk."""
    return np.asarray(array)


def _await(count: int, ranking: EnsembleRanking) -> Scores:
    return Scores(*(np.asarray(array)[:count] for array in ranking))


class Scorer:
    """Scores candidates by one checkpoint's model for one device.

    Args:
        model: The ensemble.
        hardware: The device to rank for.
        engines: Search engines whose steps the model was trained on.
        unknown_kinds: Step kinds that the model was not trained with; ranking one warns, once.

    Examples:
        >>> from cwm_jax.records.graph import shape_only_graph
        >>> from cwm_jax.records.steps import Step
        >>> scorer = Scorer.load("cpu-x86-2core-fast")
        >>> schedules = [(Step("SP", (2, 0, 64, (factor,), 1)),) for factor in (1, 8)]
        >>> scorer.rank_schedules(shape_only_graph('["matmul", 64, 64, 64]'), schedules).score.shape
        (2,)
    """

    def __init__(
        self,
        model: Ensemble,
        hardware: HardwareCard,
        engines: Sequence[str] = ("ansor",),
        unknown_kinds: Collection[str] = (),
    ) -> None:
        self._ranker = Ranker(model)
        self._unknown_kinds = {*unknown_kinds}
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
        engines = loaded.card.get("engines", ("ansor",))
        return cls(loaded.model, card, engines, loaded.unknown_kinds)

    def score(
        self, records: Sequence[Record], graphs: Mapping[str, ComputeGraph] | None = None
    ) -> Float32[np.ndarray, "record"]:
        """Scores records of any workloads.

        Args:
            records: Records; their measurements are not looked at.
            graphs: Compute graphs by workload key (`cwm_jax.load_graphs`); workloads without
                one are scored from their shapes, far worse.

        Returns:
            A score for each record, higher is better, comparable within a workload.

        Warns:
            PairingWarning: Records are of another device or engine than the model ranks for, or
                a workload has no compute graph.
        """
        rows: dict[str, list[int]] = defaultdict(list)
        for at, record in enumerate(records):
            rows[record.workload_key].append(at)
        warn_of_records(self.hardware, self.engines, records)
        scores = np.zeros(len(records), np.float32)
        for key, members in rows.items():
            graph = (graphs or {}).get(key)
            if graph is None:
                warn_of_missing_graph()
                graph = shape_only_graph(key)
            groups = group_schedules([records[at].steps for at in members])
            scores[members] = self.rank_groups(graph, groups).score
        return scores

    def rank_schedules(self, graph: ComputeGraph, schedules: Sequence[tuple[Step, ...]]) -> Scores:
        """Scores schedules of one program."""
        return self.rank_groups(graph, group_schedules(schedules))

    def rank_groups(self, graph: ComputeGraph, groups: Groups) -> Scores:
        """Scores schedules of one program that are grouped by structure, in their rows' order.

        Args:
            graph: Compute graph of the workload.
            groups: Groups of schedules (`cwm_jax.features.batch.group_schedules`).
        """
        if self._unknown_kinds:
            self._warn_of_kinds({s.kind for _, group in groups for s in group.structure})
        rows: list[Int32[np.ndarray, "row"]] = [np.zeros(0, np.int32)]

        def encoded() -> Iterator[tuple[GraphArrays, StepArrays]]:
            for chosen, batch in cut_groups(groups, BATCH_BUCKETS[-1]):
                rows.append(chosen)
                steps = encode_groups(batch, graph)
                yield encode_graph(graph, steps.slots), steps

        ranked = self._ranker.rank_all(encoded(), self._hardware_vector)
        return take_scores(ranked, np.argsort(np.concatenate(rows)))

    def rank_arrays(self, graph: GraphArrays, steps: StepArrays) -> Scores:
        """Scores encoded schedules of one program."""
        if self._unknown_kinds:
            self._warn_of_kinds({STEP_KINDS[at] for at in np.unique(steps.kind)})
        return self._ranker(graph, steps, self._hardware_vector)

    def _warn_of_kinds(self, kinds: Collection[str]) -> None:
        """Warns where step kinds are ranked that the model does not know, once for each."""
        if found := self._unknown_kinds.intersection(kinds):
            self._unknown_kinds -= found
            warn_of_unknown_kinds(found)
