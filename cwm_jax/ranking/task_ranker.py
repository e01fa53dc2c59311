"""Ranks the candidates of a search engine's tasks; the cost models of all engines use it."""

import math
import warnings
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cwm_jax.errors import CheckpointError, RecordError
from cwm_jax.features.hardware import kind_of_target
from cwm_jax.files import write_atomically
from cwm_jax.ranking.catalog import (
    PairingWarning,
    checkpoints_by_likeness,
    warn_of_engine,
    warn_of_target,
)
from cwm_jax.ranking.gaussian_process import AdaptationConfig
from cwm_jax.ranking.online import OnlineRanker, Schedule
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import parse_step
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.lines import without_mark
from cwm_jax.records.record import UNKNOWN_DEVICE, Device, Devices
from cwm_jax.records.steps import STEPS, Step

_MEASURED = "measured"
"""Field of a file of measurements."""


class Measurement(NamedTuple):
    """A measurement and the device it was made on.

    Attributes:
        device: The device, as far as it is known.
        workload_key: Key of the workload.
        schedule: The schedule that was measured.
        latency: Latency in seconds; infinity for a failure.
    """

    device: Device
    workload_key: str
    schedule: Schedule
    latency: float


class TaskRanker:
    """Ranks candidates of one engine's tasks; reads each task's compute graph once.

    Measurements of different devices are kept apart: those of one say little of another.

    Args:
        engine: Search engine: `ansor` or `metaschedule`.
        checkpoint: Name of a shipped checkpoint, a checkpoint folder, or a loaded `Scorer`.
        adaptation: How measurements of a workload correct its ranking.

    Attributes:
        online: Ranks by the checkpoint and by what is measured on the device of the first task.
            Where measurements refute the checkpoint, the others that are shipped for the engine
            and the device are asked.

    Raises:
        CheckpointError: The checkpoint is missing or does not fit.
    """

    def __init__(
        self,
        engine: str,
        checkpoint: Path | str | Scorer,
        adaptation: AdaptationConfig | None = None,
    ) -> None:
        scorer = checkpoint if isinstance(checkpoint, Scorer) else Scorer.load(checkpoint)
        self._engine = engine
        self._scorer, self._adaptation = scorer, adaptation or AdaptationConfig()
        self._devices, self._rankers = Devices(), [self._new_ranker(0)]
        self.online = self._rankers[0]
        self._graphs: dict[Hashable, ComputeGraph] = {}
        self._remembered: list[Measurement] = []
        self._asked: set[int] = set()

    def _new_ranker(self, at: int) -> OnlineRanker:
        def shipped() -> list[Scorer]:
            known = dict(self._devices[at].properties) if at < len(self._devices) else {}
            kind = kind_of_target(known.get("kind", "")) or self._scorer.hardware.kind
            return shipped_scorers(self._engine, kind)

        return OnlineRanker(self._scorer, self._adaptation, shipped)

    def online_on(self, device: Device) -> OnlineRanker:
        """Returns the ranker for the tasks of a device.

        Args:
            device: As the target of the task says.

        Warns:
            PairingWarning: Measurements that were remembered are of other devices.
        """
        at = self._devices.add(device)
        if at == len(self._rankers):
            self._rankers.append(self._new_ranker(at))
        found = self._rankers[at]
        if at in self._asked or not self._remembered:
            return found
        self._asked.add(at)
        left: list[Measurement] = []
        for measurement in self._remembered:
            if self._devices[at].merged(measurement.device) is None:
                left.append(measurement)
            else:
                found.learn(measurement.workload_key, measurement.schedule, measurement.latency)
        self._remembered = left
        if left:
            others = dict.fromkeys(str(measurement.device) for measurement in left)
            warnings.warn(
                f"{len(left)} measurements are of other devices ({'; '.join([*others][:3])}) than "
                f"{device}, and say nothing of its programs",
                PairingWarning,
                stacklevel=3,
            )
        return found

    def remember(self, measurements: Iterable[Measurement]) -> None:
        """Adds measurements, each to the ranker of its device as soon as there is one.

        Args:
            measurements: What `read_measurements` returned.
        """
        self._remembered += measurements
        self._asked.clear()
        for at in range(len(self._devices)):
            self.online_on(self._devices[at])

    def measured(self) -> list[Measurement]:
        """Returns all measurements so far."""
        known = [
            Measurement(device, key, schedule, latency)
            for at, ranker in enumerate(self._rankers)
            for device in [self._devices[at] if at < len(self._devices) else UNKNOWN_DEVICE]
            for key, found in ranker.measured.items()
            for schedule, latency in found
        ]
        return [*known, *self._remembered]

    def graph(
        self, task: Hashable, target: str, cores: int | None, read: Callable[[], ComputeGraph]
    ) -> ComputeGraph:
        """Returns the compute graph of a task; reads it on the first call.

        Then it warns if the checkpoint is for another device or engine (`PairingWarning`).

        Args:
            task: Key that tells tasks apart.
            target: TVM target string, or the JSON of one.
            cores: CPU cores that the target runs on, if known.
            read: Returns the compute graph.
        """
        if task not in self._graphs:
            self._graphs[task] = read()
            scorer = self._scorer
            warn_of_target(scorer.hardware, target, cores)
            warn_of_engine(scorer.engines, self._engine)
        return self._graphs[task]


def write_measurements(path: Path, measurements: Iterable[Measurement]) -> None:
    """Writes measurements as JSON, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    measured = [
        (key, [(step.kind, step.fields) for step in schedule], latency, dict(device.properties))
        for device, key, schedule, latency in measurements
    ]
    write_atomically(path, orjson.dumps({_MEASURED: measured}))


def read_measurements(path: Path) -> list[Measurement]:
    """Reads what `write_measurements` wrote.

    Raises:
        CheckpointError: The file is missing, no JSON, or was edited by hand; the message names the
            field, what was found and what was expected.
    """
    try:
        data = orjson.loads(without_mark(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: no saved measurements ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get(_MEASURED), list):
        found = repr(data)[:40]
        raise CheckpointError(
            f"{path}: no saved measurements (found {found}, expected an object whose field "
            f"{_MEASURED!r} is a list)"
        )
    return [
        _measurement(entry, f"{path}: no saved measurements (field {_MEASURED!r}, entry {at}")
        for at, entry in enumerate(data[_MEASURED])
    ]


def _measurement(entry: Any, where: str) -> Measurement:
    match entry:
        # Files of before devices were told apart say none.
        case [str(key), list(steps), latency, *device] if len(device) <= 1:
            pass
        case _:
            expected = "expected [workload key, steps, seconds, device]"
            raise CheckpointError(f"{where}: found {repr(entry)[:40]}, {expected})")
    if latency is not None and type(latency) not in (int, float):
        expected = "expected seconds, or null for a failed measurement"
        raise CheckpointError(f"{where}: found latency {latency!r}, {expected})")
    properties = device[0] if device else {}
    if not isinstance(properties, dict) or not all(
        isinstance(value, str) for value in properties.values()
    ):
        expected = "expected an object of words"
        raise CheckpointError(f"{where}: found device {repr(properties)[:40]}, {expected})")
    schedule: list[Step] = []
    for position, step in enumerate(steps):
        match step:
            case [kind, list(fields)]:
                pass
            case _:
                found = f"found step {repr(step)[:40]}, expected [kind, fields]"
                raise CheckpointError(f"{where}: {found})")
        try:
            schedule.append(parse_step([kind, *fields], position, STEPS))
        except RecordError as error:
            raise CheckpointError(f"{where}: {error})") from error
    seconds = math.inf if latency is None else float(latency)
    return Measurement(Device(tuple(sorted(properties.items()))), key, tuple(schedule), seconds)


def shipped_scorers(engine: str, kind: str) -> list[Scorer]:
    """Loads all shipped checkpoints that were trained for a kind of device and an engine.

    Args:
        engine: `ansor` or `metaschedule`.
        kind: `cpu` or `gpu`.

    Returns:
        The scorers; those of CPUs ordered by similarity to this machine.
    """
    return [Scorer.load(name) for name in checkpoints_by_likeness(engine, kind)]
