"""The batches of an epoch, planned ahead so that each can be made by itself, and their loader."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import grain
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float32, Int32

from cwm_jax.features.batch import SLOT_BUCKETS, STEP_BUCKETS, bucket
from cwm_jax.features.graph import GraphArrays, pad_slots
from cwm_jax.model.world_model import Schedules
from cwm_jax.training.dataset import WorkloadData

_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
"""Batches are made by two threads, at most four ahead of the one that is asked for."""


class Batch(NamedTuple):
    """Lists of candidates, one workload a list, padded to common sizes.

    Attributes:
        graphs: Encoded programs, stacked.
        schedules: Encoded schedules, `[list, candidate, ...]`.
        hardware: Encoded hardware cards.
        throughput: Labels in (0, 1].
        valid: False for padding.
        alignment: What terminal latents are aligned with; NaN where unknown.
        workload: Position of each list's workload in the data set.
        taught: Scores to learn; None where training does without.
    """

    graphs: GraphArrays
    schedules: Schedules
    hardware: Float32[np.ndarray, "list column"]
    throughput: Float32[np.ndarray, "list candidate"]
    valid: Bool[np.ndarray, "list candidate"]
    alignment: Float32[np.ndarray, "list candidate target"]
    workload: Int32[np.ndarray, "list"]
    taught: Float32[np.ndarray, "list candidate"] | None


_Size = tuple[int, int]
_Member = tuple[int, WorkloadData, np.ndarray]


class EpochBatches:
    """One epoch: every record once, in lists of one workload, in random order.

    Lists are batched with others of the same padded size, so that few programs are compiled. Any
    batch is made by its position, from the data set alone: a source for Grain.

    Args:
        dataset: Workloads to draw from.
        lists: Lists a batch.
        candidates: Candidates a list at most.
        rng: Source of the order; not used after the constructor returns.
    """

    def __init__(
        self,
        dataset: Sequence[WorkloadData],
        *,
        lists: int,
        candidates: int,
        rng: np.random.Generator,
    ) -> None:
        pending: dict[_Size, list[_Member]] = defaultdict(list)
        for position, workload in enumerate(dataset):
            order = rng.permutation(len(workload.latencies))
            parts = max(1, round(len(order) / candidates))
            for part in np.array_split(order, parts):
                for chunk in np.split(part, range(candidates, len(part), candidates)):
                    if len(chunk) > 1:
                        pending[_padded_size(workload)].append((position, workload, chunk))
        planned: list[tuple[_Size, list[_Member]]] = []
        for size, members in _with_small_ones_merged(pending, lists).items():
            shuffled = [members[at] for at in rng.permutation(len(members))]
            planned += [(size, shuffled[at : at + lists]) for at in range(0, len(members), lists)]
        self._planned = [planned[at] for at in rng.permutation(len(planned))]
        self._shape = lists, candidates

    def __len__(self) -> int:
        return len(self._planned)

    def __getitem__(self, index: int) -> Batch:
        size, members = self._planned[index]
        return _collate(size, members, *self._shape)


def load_batches(batches: EpochBatches, start: int = 0) -> Iterable[Batch]:
    """Returns the batches in order, made ahead in threads while the caller trains.

    Args:
        batches: Batches of an epoch.
        start: How many are left out at the beginning: none of these is made.
    """
    return grain.MapDataset.source(batches).slice(slice(start, None)).to_iter_dataset(_AHEAD)


def _padded_size(workload: WorkloadData) -> _Size:
    longest = int(workload.steps.length.max(initial=1))
    steps = bucket(longest, STEP_BUCKETS)
    return steps, bucket(workload.steps.slots, SLOT_BUCKETS)


def _with_small_ones_merged(
    groups: Mapping[_Size, list[_Member]], lists: int
) -> dict[_Size, list[_Member]]:
    """Pads lists of sizes that do not fill a batch to the next size that there is.

    Each size is a program to compile, and a batch costs the same however few lists it holds.
    """
    merged = {size: list(members) for size, members in groups.items()}
    for size in sorted(groups):
        larger = [other for other in merged if other > size and other[1] >= size[1]]
        if len(merged[size]) < lists and larger:
            merged[min(larger)] += merged.pop(size)
    return merged


def _collate(
    size: _Size,
    members: list[_Member],
    lists: int,
    candidates: int,
) -> Batch:
    steps, slots = size
    throughput = np.zeros((lists, candidates), np.float32)
    valid = np.zeros((lists, candidates), bool)
    targets = members[0][1].alignment.shape[1]
    alignment = np.full((lists, candidates, targets), np.nan, np.float32)
    example = members[0][1].steps
    taught = None if members[0][1].taught is None else np.zeros_like(throughput)
    fields = {}
    for name in Schedules._fields:
        array = getattr(example, name)
        padded = (lists, candidates, *([steps] if array.ndim > 1 else []), *array.shape[2:])
        fields[name] = np.zeros(padded, array.dtype)
    # A batch that is not full repeats its first program in the rows without candidates.
    filled = [*members, *members[:1] * (lists - len(members))]
    workloads = [workload for _, workload, _ in filled]
    positions = np.array([position for position, _, _ in filled], np.int32)
    graphs = [pad_slots(workload.graph, slots) for workload in workloads]
    for row, (_, workload, chosen) in enumerate(members):
        count = len(chosen)
        throughput[row, :count] = workload.throughput[chosen]
        valid[row, :count] = True
        alignment[row, :count] = workload.alignment[chosen]
        if taught is not None and workload.taught is not None:
            taught[row, :count] = workload.taught[chosen]
        for name, array in fields.items():
            source = getattr(workload.steps, name)[chosen]
            if source.ndim == 1:
                array[row, :count] = source
            else:
                known = min(steps, source.shape[1])
                array[row, :count, :known] = source[:, :known]
    stacked = GraphArrays(*(np.stack(parts) for parts in zip(*graphs, strict=True)))
    hardware = np.stack([workload.hardware for workload in workloads])
    # Still NumPy: the jitted update moves the whole batch at once.
    schedules = Schedules(**fields)  # type: ignore[arg-type]
    return Batch(stacked, schedules, hardware, throughput, valid, alignment, positions, taught)


_LISTS = "lists"

Tree = TypeVar("Tree")


def data_mesh(lists: int) -> Mesh:
    """Returns the devices that share out the lists of a batch.

    Args:
        lists: Lists a batch. Of one host's devices the largest number that divides it is used;
            several hosts use all theirs.

    Raises:
        ValueError: Several hosts have a number of devices that does not divide `lists`.
    """
    devices = jax.devices()
    count = max(size for size in range(1, len(devices) + 1) if lists % size == 0)
    if jax.process_count() > 1 and count != len(devices):
        raise ValueError(
            f"{jax.process_count()} hosts have {len(devices)} devices together, which do not "
            f"divide a batch of {lists} lists"
        )
    return jax.make_mesh((count,), (_LISTS,), (AxisType.Auto,), devices=devices[:count])


def share_out(batch: Tree, mesh: Mesh) -> Tree:
    """Moves a batch to the devices, each array split along its leading axis.

    Args:
        batch: Batch of NumPy arrays `[list, ...]`, the same on every host.
        mesh: What `data_mesh` returns.
    """
    sharding = NamedSharding(mesh, PartitionSpec(_LISTS))
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(
            np.shape(array), sharding, lambda index: array[index]
        ),
        batch,
    )


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Moves arrays whole to every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
