"""Records -> labelled arrays by workload, and the split."""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from cwm_jax.errors import RecordError
from cwm_jax.features.batch import StepArrays, encode_schedules
from cwm_jax.features.graph import GraphArrays, encode_graph
from cwm_jax.features.hardware import HardwareCard, encode_hardware
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.world_model import TARGET_WIDTH
from cwm_jax.ranking.scorer import Ranker
from cwm_jax.records.graph import ComputeGraph, shape_only_graph
from cwm_jax.records.record import Devices, Record
from cwm_jax.records.store_features import Stores


@dataclasses.dataclass(frozen=True)
class WorkloadData:
    """Holds the measured schedules of one workload on one device, encoded.

    Attributes:
        key: Workload key.
        graph: Encoded program.
        steps: Encoded schedules.
        hardware: Encoded card of the device that measured.
        latencies: Seconds.
        throughput: Normalised: best latency of the workload over each latency, in (0, 1].
        alignment: Targets of the terminal latents (`alignment_target`), NaN where unknown; no
            columns where no lowered programs are known.
        taught: Scores of a teacher to learn (`teach`); None where there is no teacher.
    """

    key: str
    graph: GraphArrays
    steps: StepArrays
    hardware: Float32[np.ndarray, "column"]
    latencies: Float32[np.ndarray, "candidate"]
    throughput: Float32[np.ndarray, "candidate"]
    alignment: Float32[np.ndarray, "candidate target"]
    taught: Float32[np.ndarray, "candidate"] | None = None


def build_dataset(
    records: Sequence[Record],
    graphs: Mapping[str, ComputeGraph],
    hardware: HardwareCard,
    stores: Sequence[Stores] | None = None,
) -> dict[str, WorkloadData]:
    """Encodes valid records by workload; a workload with one record is left out.

    Args:
        records: Records; those of one workload are a group for each device (`group_records`).
        graphs: Compute graphs by workload key; workloads without one are shape-only.
        hardware: The device that measured them.
        stores: Features of the lowered program of each record, to align with.

    Raises:
        RecordError: No workload has two valid measurements.
    """
    dataset: dict[str, WorkloadData] = {}
    for name, rows in group_records(records).items():
        if len(rows) > 1:
            key = records[rows[0]].workload_key
            dataset[name] = encode_workload(
                [records[at] for at in rows],
                graphs.get(key) or shape_only_graph(key),
                hardware,
                None if stores is None else [stores[at] for at in rows],
            )
    if not dataset:
        raise RecordError("no workload has two valid measurements, so there is nothing to rank")
    return dataset


def group_records(records: Sequence[Record]) -> dict[str, list[int]]:
    """Groups valid records by workload and device, on which alone latencies can be compared.

    Args:
        records: Records.

    Returns:
        Rows by the name of their group: the workload key, with the device (`Device`) behind it
        where the records are of several.
    """
    devices = Devices()
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for at, record in enumerate(records):
        if record.valid:
            groups[record.workload_key, devices.position(record)].append(at)
    names = name_groups(groups, devices)
    return {names[group]: rows for group, rows in sorted(groups.items())}


def name_groups(groups: Iterable[tuple[str, int]], devices: Devices) -> dict[tuple[str, int], str]:
    """Names groups of records by workload key, and by device where a workload has several.

    Args:
        groups: Workload key and number of the device of each.
        devices: The devices.
    """
    several = Counter(key for key, _ in groups)
    return {(key, at): f"{key} on {devices[at]}" if several[key] > 1 else key for key, at in groups}


def encode_workload(
    records: Sequence[Record],
    graph: ComputeGraph,
    hardware: HardwareCard,
    stores: Sequence[Stores] | None = None,
) -> WorkloadData:
    """Encodes valid records of one workload.

    Args:
        records: The records.
        graph: Their program.
        hardware: The device that measured them.
        stores: As for `build_dataset`.
    """
    steps = encode_schedules([record.steps for record in records], graph)
    latencies = np.array([record.latency for record in records])
    return WorkloadData(
        key=records[0].workload_key,
        graph=encode_graph(graph, steps.slots),
        steps=steps,
        hardware=encode_hardware(hardware),
        latencies=latencies.astype(np.float32),
        throughput=(latencies.min() / latencies).astype(np.float32),
        alignment=np.stack([alignment_target(rows) for rows in stores])
        if stores is not None
        else np.zeros((len(records), 0), np.float32),
    )


_FLOAT_OPERATIONS = slice(0, 7)
"""TVM's features `float_mad` to `float_other_func`: how much arithmetic a store does."""


def alignment_target(stores: Stores) -> Float32[np.ndarray, "target"]:
    """Summarises a lowered program: its store of most arithmetic, and the mean over its stores.

    Args:
        stores: TVM's features of the lowered program's buffer stores.

    Returns:
        `TARGET_WIDTH` numbers; NaN where the compute graph is unknown.
    """
    if len(stores) == 0:
        return np.full(TARGET_WIDTH, np.nan, np.float32)
    main = stores[stores[:, _FLOAT_OPERATIONS].max(1).argmax()]
    return np.concatenate([main, stores.mean(0)]).astype(np.float32)


def teach(dataset: Mapping[str, WorkloadData], teacher: Ensemble) -> dict[str, WorkloadData]:
    """Labels schedules with a teacher's scores, for one model to learn what an ensemble says.

    Args:
        dataset: Encoded workloads.
        teacher: The ensemble to learn from.
    """
    rank = Ranker(teacher)
    return {
        name: dataclasses.replace(
            workload, taught=rank(workload.graph, workload.steps, workload.hardware).score
        )
        for name, workload in dataset.items()
    }


class Split(NamedTuple):
    """Workload keys of each part; no workload is in two."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def split_workloads(keys: Sequence[str], *, test: float, seed: int) -> Split:
    """Splits workloads by a seeded hash, so that a workload's part does not depend on others.

    Args:
        keys: Workload keys.
        test: Share that training never sees.
        seed: Chooses the split.
    """
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for key in sorted(set(keys)):
        parts["test" if _position(key, seed) < test else "train"].append(key)
    return Split(*(tuple(parts[name]) for name in Split._fields))


def split_for_training(keys: Sequence[str], *, test: float, seed: int) -> Split:
    """Splits workloads as `split_workloads` does, but leaves at least one to train on.

    Where all would be held out, the last one by its hash is trained on.

    Args:
        keys: Workload keys, at least one.
        test: Share that training never sees.
        seed: Chooses the split.
    """
    split = split_workloads(keys, test=test, seed=seed)
    if split.train:
        return split
    last = max(split.test, key=lambda key: _position(key, seed))
    return Split((last,), tuple(key for key in split.test if key != last))


def _position(key: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


Occurrences = Mapping[str, Mapping[str, int]]


class NetworkSplit(NamedTuple):
    """Workload keys to train on, and how often each test workload occurs in a network.

    Attributes:
        train: Keys that occur in no held-out network.
        test: Weights by key, by held-out network.
    """

    train: tuple[str, ...]
    test: dict[str, dict[str, int]]

    @property
    def test_keys(self) -> tuple[str, ...]:
        """All test workloads, each once."""
        return tuple(sorted({key for weights in self.test.values() for key in weights}))


def split_by_network(occurrences: Occurrences, held_out: Sequence[str]) -> NetworkSplit:
    """Splits workloads so that whole networks are held out.

    Args:
        occurrences: Workload key -> network, as `NAME:BATCH,LAYOUT`, -> how often it occurs.
        held_out: Names of networks, whatever their batch size and layout.
    """
    test: dict[str, dict[str, int]] = {}
    train: list[str] = []
    for key, networks in sorted(occurrences.items()):
        held = {text: n for text, n in networks.items() if text.partition(":")[0] in held_out}
        for network, count in held.items():
            test.setdefault(network, {})[key] = count
        if not held:
            train.append(key)
    return NetworkSplit(tuple(train), test)


def hold_out_workloads(keys: Sequence[str]) -> NetworkSplit:
    """Holds a fifth of the workloads out where no networks are known; each counts alike.

    Whether a workload is held out does not depend on the others.
    """
    split = split_workloads(keys, test=0.2, seed=0)
    return NetworkSplit(split.train, {"held-out workloads": dict.fromkeys(split.test, 1)})


_CONSTANT = 1e-3
_LEAST_DEVIATION = 0.1
_ROUNDING = 1e-12


def scale_of_values(chosen: Sequence[WorkloadData]) -> Float32[np.ndarray, "column"]:
    """Returns the factors that bring each column of the steps' values to unit deviation.

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
    """Folds a scale of the inputs into models, which then score unscaled values alike."""
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
