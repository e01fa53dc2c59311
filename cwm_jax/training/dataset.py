"""Records -> labelled arrays by workload, and the split."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from cwm_jax.errors import RecordError
from cwm_jax.features.hardware import HardwareCard, encode_hardware
from cwm_jax.features.program import ProgramArrays, encode_program
from cwm_jax.features.steps import StepArrays, encode_schedules
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
