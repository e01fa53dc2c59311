"""The compute graph of a workload as plain data, so that training and scoring need no TVM.

A log `NAME.jsonl` may have its compute graphs beside it in `NAME.programs.jsonl` (either may be
gzip'd), one `ComputeGraph` a line.
"""

import dataclasses
import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import orjson

from cwm_jax.errors import GraphError
from cwm_jax.files import write_atomically
from cwm_jax.records.lines import every_line
from cwm_jax.records.steps import STEPS, Step

PROGRAM_FORMAT = 1
"""Version of the JSON form; readers refuse any other."""

_ENDING = ".programs.jsonl"

OPERATION_KINDS = ("add", "multiply", "divide", "compare", "select", "special", "integer")
"""Arithmetic that a stage counts. `special` is exp, tanh, sqrt and their like; `integer` is
everything on non-float operands outside buffer indices."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """One loop of a stage before any step: its name, trip count and whether it reduces."""

    name: str
    extent: int
    reduction: bool


@dataclasses.dataclass(frozen=True)
class Fold:
    """A modulo of a read along an axis: where its index wraps around, as a digit of a number does.

    After every `period` steps along `axis` the read stands `stride` elements from where that
    period began: blocked layouts index by `c // 8` and `c % 8`, a period of 8.
    """

    axis: int
    period: int
    stride: int


@dataclasses.dataclass(frozen=True)
class BufferRead:
    """One read of a producer's buffer.

    Attributes:
        producer: Position of the producing stage in `ComputeGraph.stages`.
        strides: For each axis of the reader, how many elements of the producer's row-major
            buffer one step along that axis moves; 0 where the axis does not occur.
        affine: False where some index is not affine in the axes; its strides then hold up to
            its first fold, or are 0 where it has none and moves in a way that is unknown.
        packed: Whether the producer is a weight that is laid out anew for each schedule, in the
            order in which the loops read it (Ansor's layout rewriting).
        folds: Quotients and remainders of an index; those of one axis by rising period, each a
            multiple of the one before.
    """

    producer: int
    strides: tuple[int, ...]
    affine: bool
    packed: bool = False
    folds: tuple[Fold, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the strides of the read are known."""
        return self.affine or bool(self.folds)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One node of the compute graph.

    Attributes:
        name: The tensor's name, for people only.
        kind: `placeholder` for an input, `compute` for a computed tensor.
        tag: TVM's topi tag (`conv2d_nchw`, `elemwise`, ...), empty when unknown.
        dtype: Element type of the output.
        shape: Output shape.
        axes: Spatial axes first, then reduction axes, in TVM's order; none for a placeholder.
        reads: One entry for each distinct read of the body.
        operations: How many of each of `OPERATION_KINDS` one point of the loop nest costs.
    """

    name: str
    kind: Literal["placeholder", "compute"]
    tag: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    reads: tuple[BufferRead, ...]
    operations: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ComputeGraph:
    """Holds the compute graph of a workload: its stages, in the order of Ansor's stage ids.

    Examples:
        >>> graphs = load_graphs("tests/data/measured.jsonl.gz")
        >>> [stage.kind for stage in graphs['["matmul", 128, 128, 128, "float32"]'].stages]
        ['placeholder', 'placeholder', 'compute']

    Attributes:
        workload_key: Ansor's workload key.
        stages: Empty for a shape-only graph, of which only the workload key is known.
        flop: Floating-point operations of one run, by TVM's count; 0 when unknown.
        initial_steps: Steps with which every schedule of the graph begins. Only functions
            written by hand have any: their loops are already tiled or reordered.
    """

    workload_key: str
    stages: tuple[Stage, ...]
    flop: float
    initial_steps: tuple[Step, ...] = ()

    @property
    def shape_only(self) -> bool:
        """Whether the graph is unknown."""
        return not self.stages


def shape_only_graph(workload_key: str) -> ComputeGraph:
    """Returns a graph without stages, for a workload whose compute graph is unknown."""
    return ComputeGraph(workload_key=workload_key, stages=(), flop=0.0)


def element_bytes(dtype: str) -> float:
    """Returns the size of an element of a TVM dtype such as `float32` or `int4`."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else 1.0


def graph_to_json(graph: ComputeGraph) -> bytes:
    """Serialises a graph to one line of JSON, without a newline."""
    data = {"format": PROGRAM_FORMAT, **dataclasses.asdict(graph)}
    data["initial_steps"] = [[step.kind, *step.fields] for step in graph.initial_steps]
    if not graph.initial_steps:
        del data["initial_steps"]
    return orjson.dumps(data)


def graph_from_json(line: bytes | str, where: str = "program") -> ComputeGraph:
    """Reads what `graph_to_json` wrote.

    Args:
        line: One line of JSON.
        where: Names the file and line in errors.

    Raises:
        GraphError: The line is no program of this format.
    """
    try:
        data = orjson.loads(line)
        found = data["format"]
        if found != PROGRAM_FORMAT:
            raise GraphError(f"{where}: program format {found!r}, expected {PROGRAM_FORMAT}")
        stages = tuple(_stage_from_json(stage) for stage in data["stages"])
        steps = tuple(_step_from_json(step) for step in data.get("initial_steps", ()))
        graph = ComputeGraph(str(data["workload_key"]), stages, float(data["flop"]), steps)
        for position, stage in enumerate(stages):
            _check_stage(stage, position, len(stages), where)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise GraphError(f"{where}: not a serialised program ({error})") from error
    return graph


def _step_from_json(data: list[Any]) -> Step:
    kind, *fields = data
    if kind not in STEPS or len(fields) != len(STEPS[kind]):
        raise ValueError(f"initial step {kind!r} of {len(fields)} fields")
    return Step(kind, tuple(tuple(value) if isinstance(value, list) else value for value in fields))


def _stage_from_json(data: dict[str, Any]) -> Stage:
    if data["kind"] not in ("placeholder", "compute"):
        raise ValueError(f"stage kind {data['kind']!r}")
    return Stage(
        name=str(data["name"]),
        kind=data["kind"],
        tag=str(data["tag"]),
        dtype=str(data["dtype"]),
        shape=tuple(int(extent) for extent in data["shape"]),
        axes=tuple(
            Axis(str(axis["name"]), int(axis["extent"]), bool(axis["reduction"]))
            for axis in data["axes"]
        ),
        reads=tuple(
            BufferRead(
                int(read["producer"]),
                tuple(int(stride) for stride in read["strides"]),
                bool(read["affine"]),
                bool(read.get("packed", False)),
                tuple(
                    Fold(int(fold["axis"]), int(fold["period"]), int(fold["stride"]))
                    for fold in read.get("folds", ())
                ),
            )
            for read in data["reads"]
        ),
        operations=tuple(int(count) for count in data["operations"]),
    )


def _check_stage(stage: Stage, position: int, stages: int, where: str) -> None:
    if len(stage.operations) != len(OPERATION_KINDS):
        raise GraphError(
            f"{where}: stage {position} counts {len(stage.operations)} kinds of operations, "
            f"expected {len(OPERATION_KINDS)}"
        )
    for read in stage.reads:
        if not 0 <= read.producer < stages or len(read.strides) != len(stage.axes):
            raise GraphError(
                f"{where}: stage {position} reads stage {read.producer} with "
                f"{len(read.strides)} strides, expected a stage below {stages} and "
                f"{len(stage.axes)} strides"
            )
        last = dict.fromkeys(range(len(stage.axes)), 1)
        for fold in read.folds:
            before = last.get(fold.axis)
            if before is None or fold.period <= before or fold.period % before:
                raise GraphError(
                    f"{where}: stage {position}, fold of axis {fold.axis} after {fold.period} "
                    f"steps, expected an axis below {len(stage.axes)} and rising multiples"
                )
            last[fold.axis] = fold.period


def write_graphs(graphs: Iterable[ComputeGraph], path: Path) -> None:
    """Writes programs as JSON lines, gzip'd if the name ends in `.gz`, whole or not at all."""
    text = b"".join(graph_to_json(graph) + b"\n" for graph in graphs)
    write_atomically(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def add_graphs(graphs: Iterable[ComputeGraph], path: Path) -> None:
    """Adds compute graphs to a file; those of other workloads stay.

    Args:
        graphs: Graphs to add; one that the file has is replaced.
        path: Plain, and made if neither it nor its gzip'd form is there.

    Raises:
        GraphError: What is there cannot be read.
        OSError: The file cannot be written.
    """
    packed = path.with_name(f"{path.name}.gz")
    file = packed if packed.exists() and not path.exists() else path
    known = read_graphs(file) if file.exists() else {}
    found = known | {graph.workload_key: graph for graph in graphs}
    if found != known:
        write_graphs(found.values(), file)


def read_graphs(path: Path) -> dict[str, ComputeGraph]:
    """Reads JSON lines of graphs, gzip'd or plain, keyed by workload key.

    Raises:
        GraphError: The file cannot be read, or a line is malformed.
    """
    return {graph.workload_key: graph for graph in _iterate_graphs(path)}


def load_graphs(log: str | Path) -> dict[str, ComputeGraph]:
    """Reads the compute graphs that belong to a log, by workload key; no file gives none.

    They lie beside the log in `NAME.programs.jsonl`, where `cwm tune`, `cwm collect` and `cwm
    import` write them. Without them, workloads are ranked from their shapes, far worse.

    Args:
        log: A log `NAME.jsonl` or `NAME.jsonl.gz`, or the folder of a MetaSchedule database, which
            holds its file of graphs.

    Raises:
        GraphError: The file cannot be read, or a line is malformed.
    """
    found: dict[str, ComputeGraph] = {}
    for path in graph_files(Path(log)):
        found |= read_graphs(path)
    return found


def graph_files(log: Path) -> list[Path]:
    """Returns the files that `load_graphs` reads."""
    within = [*log.glob(f"*{_ENDING}"), *log.glob(f"*{_ENDING}.gz")] if log.is_dir() else []
    beside = graphs_beside(log)
    return [*([beside] if beside else []), *sorted(within)]


def _iterate_graphs(path: Path) -> Iterator[ComputeGraph]:
    try:
        for number, line in every_line(path):
            if line.strip():
                yield graph_from_json(line, f"{path}:{number}")
    except OSError as error:
        raise GraphError(f"{path}: cannot be read ({error})") from error


def graphs_path(log: Path) -> Path:
    """Returns where the compute graphs of a log lie, or would lie, uncompressed."""
    stem = log.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
    return log.with_name(f"{stem}{_ENDING}")


def graphs_beside(log: Path) -> Path | None:
    """Returns the file of compute graphs that lies beside a log, if there is one."""
    plain = graphs_path(log)
    candidates = (plain, plain.with_name(f"{plain.name}.gz"))
    return next((path for path in candidates if path.exists()), None)


def __getattr__(name: str) -> object:
    from cwm_jax.deprecated_names import moved_name

    return moved_name(__name__, name)
