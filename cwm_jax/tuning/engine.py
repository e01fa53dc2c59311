"""What the package asks of an auto-scheduler: all that differs between engines is behind `Engine`.

Searching, collecting and benchmarks are written once, for any engine. One of your own subclasses
`Engine`; a small example is `tests/support/tile_engine.py`, and `cwm_jax.tuning.registry` says how
it is named on the command line.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from cwm_jax.errors import CwmError, WorkloadError
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.record import Record
from cwm_jax.search.rounds import Candidate, Schedule
from cwm_jax.tuning.collection import Collector
from cwm_jax.tuning.corpus import TaskSource
from cwm_jax.tuning.machine import Tracker
from cwm_jax.tuning.measurement import Device, MeasureConfig, TuningConfig


@dataclasses.dataclass(frozen=True)
class RoundResult:
    """What one round of a search did; times are wall-clock seconds.

    Attributes:
        latencies: Latency of each candidate in seconds, infinity for failures; empty when the
            design space is exhausted.
        search_seconds: Time of the search without the model.
        model_seconds: Time in the cost model.
        measure_seconds: Time of building and running.
        predicted: Candidates that the cost model scored, where the engine counts them.
        imagined: Schedules that the planner scored.
        proposed: Schedules that the planner handed to TVM.
        rejected: Schedules among them that TVM refused.
        first_error: What TVM said of the first failure, or "".
        task: Position of the task in the network.
        trials: Candidates measured so far.
        best_latency: Best latency so far in seconds; of a network, the estimate for the whole.
        confirming: Whether the best programs were measured again, and none was searched for.
    """

    latencies: tuple[float, ...] = ()
    search_seconds: float = 0.0
    model_seconds: float = 0.0
    measure_seconds: float = 0.0
    predicted: int = 0
    imagined: int = 0
    proposed: int = 0
    rejected: int = 0
    first_error: str = ""
    task: int = 0
    trials: int = 0
    best_latency: float = math.inf
    confirming: bool = False


class Task(NamedTuple):
    """A workload as an engine tunes it.

    Attributes:
        workload_key: Names it in records.
        description: Names it for people.
        flop: Floating-point operations of one run; 0 where unknown.
        kind: Tasks of one kind are alike to the task scheduler; "" if it is alike to none.
        graph: Its compute graph.
        handle: The engine's own object: a `SearchTask`, an `IRModule`.
        weight: How often it occurs in its network.
    """

    workload_key: str
    description: str
    flop: float
    kind: str
    graph: ComputeGraph
    handle: Any
    weight: int = 1


class TaskSearch(Protocol):
    """The search of one task, asked for one round at a time."""

    def round(self, count: int) -> RoundResult:
        """Searches for at most `count` new candidates, measures and keeps them.

        Raises:
            KeyboardInterrupt: The user asked to stop; the round is dropped.
        """
        ...

    def remeasure(self, records: Sequence[Record]) -> RoundResult:
        """Measures recorded candidates again, and keeps the results.

        Args:
            records: One record of each candidate.

        Raises:
            KeyboardInterrupt: The user asked to stop; the round is dropped.
        """
        ...

    def close(self) -> None:
        """Ends the search."""
        ...


class Session(Protocol):
    """An open log or database of some tasks, with a cost model and what measures."""

    @property
    def earlier(self) -> Sequence[Sequence[Record]]:
        """Returns the earlier records of each task."""
        ...

    def search(self, task: int) -> TaskSearch:
        """Begins, or goes on with, the search of a task by its position."""
        ...

    def records(self, task: int) -> Sequence[Record]:
        """Returns all records of a task by its position, the earlier ones included."""
        ...

    def give_up(self, task: int, error: Exception) -> None:
        """Warns that a task cannot be searched, so that the others of its network are.

        Raises:
            Exception: The error itself, where it is no matter of this task.
        """
        ...


class NetworkModel(NamedTuple):
    """A network to tune.

    Attributes:
        name: For people and file names.
        tasks: The tasks to tune, with how often each occurs.
        handle: The engine's own object.
    """

    name: str
    tasks: list[Task]
    handle: Any


class ScoringCalls(NamedTuple):
    """What an engine asks its cost models during a search, for one workload.

    Attributes:
        graph: The workload.
        schedules: Steps of the candidates.
        prepare: Functions by model, "world-model" and its rival. Each takes a number of candidates,
            and returns a function that scores the first so many as a search does, by a model that
            has not scored them before.
    """

    graph: ComputeGraph
    schedules: Sequence[Schedule]
    prepare: Mapping[str, Callable[[int], Callable[[], Any]]]


class Engine(Protocol):
    """An auto-scheduler on one target.

    Attributes:
        target: The target as text, as records hold it.
    """

    target: str

    def tasks(self, source: Any) -> list[Task]:
        """Returns the tasks of a workload.

        Args:
            source: A `cwm_jax.workloads.parse.Workload` or `Subgraph`, or what the engine's users
                have at hand: TE tensors, an `IRModule`.

        Raises:
            WorkloadError: The engine cannot tune it.
        """
        ...

    def session(
        self,
        tasks: Sequence[Task],
        config: TuningConfig,
        place: Path,
        scorer: Scorer | None,
        *,
        resume: bool,
        interrupt: Any,
        learn_every: int,
    ) -> AbstractContextManager[Session]:
        """Opens the log or database of a search.

        Args:
            tasks: The tasks to search.
            config: Settings.
            place: The log or folder.
            scorer: Checkpoint of the world model, if that is the cost model.
            resume: Whether the user asks to go on with a log that is there.
            interrupt: Whether the user asked to stop (`cwm_jax.tuning.interrupts.Interrupt`).
            learn_every: Measurements after which a cost model that trains does so.

        Raises:
            RecordError: The place holds another search, or was measured otherwise.
            TargetError: The settings ask for references on another device than this CPU.
        """
        ...

    def recorded(self, place: Path) -> list[Record]:
        """Returns all records of a search, in the order measured."""
        ...

    def records_file(self, place: Path) -> Path:
        """Returns the file of a search's records."""
        return place

    def candidate(self, place: Path, record: Record) -> Candidate:
        """Returns a recorded candidate, to be built again."""
        ...

    def identity(self, place: Path, record: Record) -> bytes:
        """Returns what a recorded candidate is built from, to tell it from others."""
        ...

    def schedule_text(self, place: Path, task: Task, record: Record) -> str:
        """Returns the program that a record's schedule leads to, as text."""
        ...

    def device(self, config: MeasureConfig) -> Device:
        """Returns what builds and runs candidates on this machine."""
        ...

    def collector(self, scorer: Scorer | None) -> Collector:
        """Returns what draws and keeps the candidates of a corpus."""
        raise CwmError(f"{type(self).__name__} collects no corpus")

    def corpus_tasks(self) -> TaskSource:
        """Returns what makes the tasks of a corpus."""
        raise CwmError(f"{type(self).__name__} collects no corpus")

    def scoring_calls(self, task: Task, scorer: Scorer, count: int) -> ScoringCalls:
        """Samples candidates as a search does, and has both models learn from some.

        Args:
            task: The workload.
            scorer: Checkpoint of the world model.
            count: How many candidates.
        """
        raise CwmError(f"{type(self).__name__} has no cost model to compare with")

    def network(self, text: str, seed: int) -> NetworkModel:
        """Loads a network.

        Args:
            text: A built-in network's name, `FILE.py:FUNCTION`, or `FILE.onnx`.
            seed: Seed of a built-in network's weights.

        Raises:
            WorkloadError: There is no such network, or it cannot be imported.
        """
        raise WorkloadError(f"{text}: {type(self).__name__} tunes no networks")

    def check_network(self, text: str, network: NetworkModel) -> None:
        """Checks that a network compiles, before trials are spent on it.

        Args:
            text: As for `network`; messages name it.
            network: What `network` returned for it.

        Raises:
            WorkloadError: It does not.
        """

    def compile(self, network: NetworkModel, place: Path) -> Any:
        """Compiles a network with the fastest recorded program of each task.

        Returns:
            An object with `export_library(path)`.
        """
        raise WorkloadError(f"{network.name}: {type(self).__name__} compiles no networks")

    def time(
        self, network: NetworkModel, library: Any, repeats: int, seed: int, tracker: Tracker | None
    ) -> list[float]:
        """Runs a compiled network on random inputs.

        Args:
            network: The network.
            library: As `compile` returns it.
            repeats: How often to measure; each measurement runs for at least 0.5 s.
            seed: Seed of the inputs.
            tracker: Where to ask for a device; None for this machine.

        Returns:
            Seconds of one inference, one entry a measurement.
        """
        raise WorkloadError(f"{network.name}: {type(self).__name__} compiles no networks")


def pretend_latencies(count: int) -> list[float]:
    """Returns random latencies in seconds, for benchmarks in which only time counts."""
    return np.random.default_rng(0).uniform(1e-3, 1e-2, count).tolist()
