"""The tasks of a corpus: which workloads are measured, kept as a file of compute graphs."""

import dataclasses
import gzip
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import orjson

from cwm_jax.errors import CorpusError, WorkloadError
from cwm_jax.files import write_atomically
from cwm_jax.records.lines import every_line
from cwm_jax.workloads.networks import Network
from cwm_jax.workloads.parse import Subgraph, Workload


@dataclasses.dataclass(frozen=True)
class CorpusTask:
    """One workload of a corpus.

    Attributes:
        workload_key: Ansor's, or the hash of MetaSchedule's module.
        target: TVM target.
        layout_rewrite: `auto_scheduler.LayoutRewriteOption` as an integer; 0 for MetaSchedule.
        flop: Floating-point operations of the workload.
        tensors: The compute graph, or the module, as TVM's JSON.
        occurrences: How often each network holds it; an operator by itself counts as a network
            of its own name.
        hardware_parameters: Ansor's, in the order of a record; None for those of this machine.
    """

    workload_key: str
    target: str
    layout_rewrite: int
    flop: float
    tensors: str
    occurrences: dict[str, int]
    hardware_parameters: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class TaskPlan:
    """What `plan_tasks` collects.

    Attributes:
        networks: Their tasks are extracted.
        workloads: Operators by themselves.
        whole_networks: Networks, as text, of which no task is left out for number: those that
            are held out to judge a model.
        tasks_per_network: At most so many tasks of any other network, drawn at random.
        max_flop: Larger workloads are left out: their slow programs take seconds to run.
        seed: Of the draw.
    """

    networks: tuple[Network, ...]
    workloads: tuple[tuple[str, Workload | Subgraph], ...]
    whole_networks: tuple[str, ...] = ()
    tasks_per_network: int = 20
    max_flop: float = 2e9
    seed: int = 0


class TaskSource(Protocol):
    """An engine that makes tasks of networks and workloads."""

    def network_tasks(self, network: Network) -> list[tuple[CorpusTask, int]]:
        """Returns the tasks of a network, and how often each occurs in it."""
        ...

    def workload_task(self, workload: Workload | Subgraph) -> CorpusTask:
        """Returns the task of a workload."""
        ...


def plan_tasks(
    source: TaskSource,
    plan: TaskPlan,
    report: Callable[[str], None] = lambda _: None,
    refuse: Callable[[WorkloadError], None] | None = None,
) -> list[CorpusTask]:
    """Extracts the tasks of a plan, each workload once, in a random order.

    Args:
        source: Of the tasks.
        plan: What to extract.
        report: Called with the name of each network before it is extracted.
        refuse: Called with what is wrong with a workload that is left out.

    Raises:
        WorkloadError: A workload cannot be tuned, and there is no `refuse`; or none can.
    """
    rng = np.random.default_rng(plan.seed)
    tasks: dict[str, CorpusTask] = {}
    kept: set[str] = set()
    occurrences: dict[str, dict[str, int]] = defaultdict(dict)
    for network in plan.networks:
        report(str(network))
        found = [
            (task, weight)
            for task, weight in source.network_tasks(network)
            if task.flop <= plan.max_flop
        ]
        chosen = np.arange(len(found))
        if str(network) not in plan.whole_networks:
            chosen = rng.permutation(chosen)[: plan.tasks_per_network]
        for at, (task, weight) in enumerate(found):
            key = task.workload_key
            tasks.setdefault(key, task)
            occurrences[key][str(network)] = weight
            if at in chosen:
                kept.add(key)
    refused: list[WorkloadError] = []
    for text, workload in plan.workloads:
        try:
            task = source.workload_task(workload)
        except WorkloadError as error:
            refused.append(error)
            if refuse is None:
                raise
            refuse(error)
            continue
        key = task.workload_key
        tasks.setdefault(key, task)
        occurrences[key][text] = 1
        kept.add(key)
    if refused and not kept:
        raise refused[0]
    found_tasks = [
        dataclasses.replace(tasks[key], occurrences=occurrences[key]) for key in sorted(kept)
    ]
    return [found_tasks[at] for at in rng.permutation(len(found_tasks))]


def write_tasks(path: Path, tasks: Iterable[CorpusTask]) -> None:
    """Writes gzip'd JSON lines, whole or not at all."""
    text = b"".join(orjson.dumps(dataclasses.asdict(task)) + b"\n" for task in tasks)
    write_atomically(path, gzip.compress(text, mtime=0))


def read_tasks(path: Path) -> list[CorpusTask]:
    """Reads what `write_tasks` wrote.

    Raises:
        CorpusError: The file cannot be read, or a line is no task.
    """
    try:
        return [_parse(path, number, line) for number, line in every_line(path)]
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error})") from error


def _parse(path: Path, number: int, line: bytes) -> CorpusTask:
    try:
        fields = orjson.loads(line)
        task = CorpusTask(**fields)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise CorpusError(f"{path}:{number}: not a task of a corpus ({error})") from error
    wanted: Sequence[tuple[str, type | tuple[type, ...]]] = (
        ("workload_key", str),
        ("target", str),
        ("layout_rewrite", int),
        ("flop", (int, float)),
        ("tensors", str),
        ("occurrences", dict),
    )
    for name, kind in wanted:
        if not isinstance(getattr(task, name), kind):
            raise CorpusError(f"{path}:{number}: field {name!r} is of the wrong type")
    return task
