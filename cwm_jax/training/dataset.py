"""Records -> labelled arrays by workload, the split, and the batches."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from cwm_jax.errors import RecordError
from cwm_jax.features.buckets import SLOT_BUCKETS, STEP_BUCKETS, bucket
from cwm_jax.features.hardware import HardwareCard, encode_hardware
from cwm_jax.features.program import ProgramArrays, encode_program, pad_slots
from cwm_jax.features.steps import StepArrays, encode_schedules
from cwm_jax.model.inputs import Schedules
from cwm_jax.records.program import Program, shape_only_program
from cwm_jax.records.record import Record
from cwm_jax.records.store_features import Stores
from cwm_jax.training.alignment import alignment_target


@dataclasses.dataclass(frozen=True)
class WorkloadData:
    """Measured schedules of one workload, encoded.

    Attributes:
        key: Workload key.
        program: Encoded program.
        steps: Encoded schedules.
        hardware: Encoded card of the device that measured.
        latencies: Seconds.
        throughput: Normalised: best latency of the workload over each latency, in (0, 1].
        alignment: What the terminal latent is aligned with, NaN where unknown; no columns where
            training does without (`cwm_jax.training.alignment`).
        taught: Scores to learn (`cwm_jax.training.distillation`); None where training does
            without.
    """

    key: str
    program: ProgramArrays
    steps: StepArrays
    hardware: Float32[np.ndarray, "column"]
    latencies: Float32[np.ndarray, "candidate"]
    throughput: Float32[np.ndarray, "candidate"]
    alignment: Float32[np.ndarray, "candidate target"]
    taught: Float32[np.ndarray, "candidate"] | None = None


def build_dataset(
    records: Sequence[Record],
    programs: Mapping[str, Program],
    hardware: HardwareCard,
    stores: Sequence[Stores] | None = None,
) -> dict[str, WorkloadData]:
    """Groups valid records by workload and encodes them; a group of one cannot be ranked.

    Args:
        records: Records of one device.
        programs: Compute graphs by workload key; workloads without one are shape-only.
        hardware: The device that measured them.
        stores: Features of the lowered program of each record, to align with.

    Raises:
        RecordError: No workload has two valid measurements.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for at, record in enumerate(records):
        if record.valid:
            groups[record.workload_key].append(at)
    dataset = {
        key: encode_workload(
            [records[at] for at in rows],
            programs.get(key) or shape_only_program(key),
            hardware,
            None if stores is None else [stores[at] for at in rows],
        )
        for key, rows in sorted(groups.items())
        if len(rows) > 1
    }
    if not dataset:
        raise RecordError("no workload has two valid measurements, so there is nothing to rank")
    return dataset


def encode_workload(
    records: Sequence[Record],
    program: Program,
    hardware: HardwareCard,
    stores: Sequence[Stores] | None = None,
) -> WorkloadData:
    """Encodes valid records of one workload.

    Args:
        records: The records.
        program: Their program.
        hardware: The device that measured them.
        stores: As for `build_dataset`.
    """
    steps = encode_schedules([record.steps for record in records], program)
    latencies = np.array([record.latency for record in records])
    return WorkloadData(
        key=records[0].workload_key,
        program=encode_program(program, steps.slots),
        steps=steps,
        hardware=encode_hardware(hardware),
        latencies=latencies.astype(np.float32),
        throughput=(latencies.min() / latencies).astype(np.float32),
        alignment=np.stack([alignment_target(rows) for rows in stores])
        if stores is not None
        else np.zeros((len(records), 0), np.float32),
    )


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
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        parts["test" if position < test else "train"].append(key)
    return Split(*(tuple(parts[name]) for name in Split._fields))


class Batch(NamedTuple):
    """Lists of candidates, one workload a list, padded to common sizes.

    Attributes:
        programs: Encoded programs, stacked.
        schedules: Encoded schedules, `[list, candidate, ...]`.
        hardware: Encoded hardware cards.
        throughput: Labels in (0, 1].
        valid: False for padding.
        alignment: What terminal latents are aligned with; NaN where unknown.
        workload: Position of each list's workload in the data set.
        taught: Scores to learn; None where training does without.
    """

    programs: ProgramArrays
    schedules: Schedules
    hardware: Float32[np.ndarray, "list column"]
    throughput: Float32[np.ndarray, "list candidate"]
    valid: Bool[np.ndarray, "list candidate"]
    alignment: Float32[np.ndarray, "list candidate target"]
    workload: Int32[np.ndarray, "list"]
    taught: Float32[np.ndarray, "list candidate"] | None


_Size = tuple[int, int]
_Member = tuple[int, WorkloadData, np.ndarray]


def batches(
    dataset: Sequence[WorkloadData],
    *,
    lists: int,
    candidates: int,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """Yields one epoch: every record once, in lists of one workload, in random order.

    Lists are batched with others of the same padded size, so that few programs are compiled.

    Args:
        dataset: Workloads to draw from.
        lists: Lists a batch.
        candidates: Candidates a list at most.
        rng: Source of the order.
    """
    pending: dict[_Size, list[_Member]] = defaultdict(list)
    for position, workload in enumerate(dataset):
        order = rng.permutation(len(workload.latencies))
        parts = max(1, round(len(order) / candidates))
        for part in np.array_split(order, parts):
            for chunk in np.split(part, range(candidates, len(part), candidates)):
                if len(chunk) > 1:
                    pending[_padded_size(workload)].append((position, workload, chunk))
    chunks: list[tuple[_Size, list[_Member]]] = []
    for size, members in _with_small_ones_merged(pending, lists).items():
        shuffled = [members[at] for at in rng.permutation(len(members))]
        chunks += [(size, shuffled[at : at + lists]) for at in range(0, len(members), lists)]
    for at in rng.permutation(len(chunks)):
        size, members = chunks[at]
        yield _collate(size, members, lists, candidates)


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
    programs = [pad_slots(workload.program, slots) for workload in workloads]
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
    stacked = ProgramArrays(*(np.stack(parts) for parts in zip(*programs, strict=True)))
    hardware = np.stack([workload.hardware for workload in workloads])
    # Still NumPy: the jitted update moves the whole batch at once.
    schedules = Schedules(**fields)  # type: ignore[arg-type]
    return Batch(stacked, schedules, hardware, throughput, valid, alignment, positions, taught)
