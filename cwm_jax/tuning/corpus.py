"""The files of a corpus.

A corpus is a folder:
    machine.json           what it was measured on
    tasks.jsonl.gz         its workloads (`cwm_jax.tuning.corpus`)
    records.jsonl.gz       an Ansor log, one gzip member a round
    records.programs.jsonl.gz   the compute graphs, so that training needs no TVM
    reference.jsonl        every run of the reference program
    remeasured.jsonl.gz    records measured once more, to know the noise
    traces.jsonl.gz        of MetaSchedule, its own form of the records
"""

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
from cwm_jax.tuning.machine import NOTE
from cwm_jax.workloads.networks import Network, parse_network
from cwm_jax.workloads.parse import Subgraph, Workload, parse_workload


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The files of a corpus.

    Attributes:
        folder: Where they lie.
    """

    folder: Path

    @property
    def machine(self) -> Path:
        """Returns the file that names the machine."""
        return self.folder / NOTE

    @property
    def tasks(self) -> Path:
        """Returns the file of its workloads."""
        return self.folder / "tasks.jsonl.gz"

    @property
    def records(self) -> Path:
        """Returns the file of its measurements."""
        return self.folder / "records.jsonl.gz"

    @property
    def graphs(self) -> Path:
        """Returns the file of its compute graphs."""
        return self.folder / "records.programs.jsonl.gz"

    @property
    def reference(self) -> Path:
        """Returns the file of the reference program's runs."""
        return self.folder / "reference.jsonl"

    @property
    def remeasured(self) -> Path:
        """Returns the file of records that were measured once more."""
        return self.folder / "remeasured.jsonl.gz"

    @property
    def traces(self) -> Path:
        """Returns the file of MetaSchedule's traces."""
        return self.folder / "traces.jsonl.gz"


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
        seed: Seed of the draw.
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
        source: Source of the tasks.
        plan: The tasks to extract.
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


# Held out whenever a model is judged by network, so none of their tasks is left out.
HELD_OUT_NETWORKS = ("resnet-50", "mobilenet-v2", "resnext-50", "bert-base", "bert-tiny")

_NETWORKS = (
    *(f"{name}:1,NHWC" for name in HELD_OUT_NETWORKS),
    *("resnet-18:1,NHWC", "resnet-18:4,NHWC", "resnet-18:1,NCHW"),
    *("wide-resnet-50:1,NHWC", "wide-resnet-50:1,NCHW"),
    *("mobilenet-v1:1,NHWC", "mobilenet-v1:4,NHWC", "mobilenet-v1:1,NCHW"),
    *("mnasnet-b1:1,NHWC", "mnasnet-b1:1,NCHW", "mnasnet-b1:4,NHWC"),
    *("regnet-x-800mf:1,NHWC", "regnet-x-800mf:1,NCHW"),
    *("densenet-121:1,NHWC", "densenet-121:4,NHWC", "densenet-121:1,NCHW"),
    *("inception-v3:1,NHWC", "inception-v3:4,NHWC", "inception-v3:1,NCHW"),
    *("vgg-16:1,NHWC", "vgg-16:1,NCHW", "vgg-16:4,NHWC"),
    *("squeezenet:1,NHWC", "squeezenet:16,NHWC", "squeezenet:1,NCHW"),
    *("dcgan:1", "dcgan:4", "dcgan:16"),
    *("bert-large:1", "bert-large:4", "gpt2-small:1", "gpt2-small:4"),
    *("vit-small:1", "vit-small:4", "lstm:1", "lstm:4", "lstm:16", "mlp:1", "mlp:4", "mlp:16"),
)
# Other shapes than the Ansor paper's: those are kept to judge a search.
_WORKLOADS = (
    *("matmul:128,128,128", "matmul:256,1024,256", "matmul:1024,1024,512", "matmul:16,2048,512"),
    *("matmul:768,768,768", "matmul:1,1000,2048", "matmul:384,384,1536", "matmul:64,4096,64"),
    *("dense:4,512,1000", "dense:64,1024,1024", "dense:1,4096,1024", "dense:32,256,256"),
    *("batch_matmul:8,64,64,64", "batch_matmul:16,256,256,32", "batch_matmul:1,512,512,128"),
    *("transpose_batch_matmul:1,64,8,64", "transpose_batch_matmul:1,256,12,64"),
    *("transpose_batch_matmul:4,128,4,32", "transpose_batch_matmul:1,384,16,64"),
    *("conv1d:1,512,64,64,3,1,1", "conv1d:1,1024,32,64,5,2,2", "conv1d:4,128,256,256,3,1,1"),
    *("conv1d:1,2048,16,32,7,2,3", "conv1d:1,96,512,256,1,1,0"),
    *("conv2d:1,28,28,96,96,3,1,1", "conv2d:1,112,112,24,48,3,2,1", "conv2d:1,40,40,64,256,1,1,0"),
    *("conv2d:1,20,20,192,192,3,1,1,NCHW", "conv2d:2,14,14,384,128,1,1,0"),
    *("conv2d:1,10,10,512,512,3,1,1", "conv2d:1,160,160,3,32,3,2,1", "conv2d:1,32,32,48,64,5,1,2"),
    *("conv2d_bias_relu:1,48,48,64,64,3,1,1", "conv2d_bias_relu:1,24,24,128,256,3,2,1"),
    *("conv2d_bias_relu:1,96,96,16,32,3,1,1,NCHW", "conv2d_bias_relu:1,12,12,512,512,1,1,0"),
    *("dilated_conv2d:1,32,32,64,64,3,1,2,2", "dilated_conv2d:1,64,64,32,64,3,1,4,4"),
    *("dilated_conv2d:1,24,24,256,256,3,1,2,2", "dilated_conv2d:1,16,16,384,128,3,2,2,2"),
    *("group_conv2d:1,32,32,128,128,3,1,1,8", "group_conv2d:1,16,16,256,256,3,1,1,32"),
    *("group_conv2d:1,64,64,64,128,3,2,1,4", "group_conv2d:1,8,8,512,512,3,1,1,16"),
    *("depthwise_conv2d:1,96,96,48,3,1,1", "depthwise_conv2d:1,40,40,240,5,2,2"),
    *("depthwise_conv2d:1,20,20,480,3,1,1", "depthwise_conv2d:1,80,80,72,5,1,2,NCHW"),
    *("depthwise_conv2d:4,28,28,192,3,1,1", "depthwise_conv2d:1,10,10,960,5,1,2"),
    *("transposed_conv2d:1,8,8,384,192,4,2,1", "transposed_conv2d:1,16,16,128,64,4,2,1"),
    *("transposed_conv2d:1,24,24,96,48,4,2,1", "transposed_conv2d:2,6,6,256,256,3,2,1"),
    *(
        "conv3d:1,8,28,28,64,64,3,1,1",
        "conv3d:1,16,56,56,3,32,3,2,1",
        "conv3d:1,4,14,14,256,256,1,1,0",
    ),
    *("conv3d:1,8,14,14,128,128,3,1,1", "capsule_conv2d:1,12,12,16,32,3,1,1,4"),
    *("capsule_conv2d:1,8,8,32,32,3,1,1,4", "capsule_conv2d:1,24,24,8,16,3,2,1,4"),
    *("norm:1,512,512", "norm:8,256,128", "norm:16,64,1024", "norm:1,1024,64"),
    *("softmax:256,512", "softmax:64,4096", "softmax:4096,64", "softmax:1536,128"),
)


def default_plan() -> TaskPlan:
    """Returns the plan of `cwm collect`."""
    return TaskPlan(
        networks=tuple(parse_network(text) for text in _NETWORKS),
        workloads=tuple((text, parse_workload(text)) for text in _WORKLOADS),
        whole_networks=tuple(str(parse_network(f"{name}:1,NHWC")) for name in HELD_OUT_NETWORKS),
    )
