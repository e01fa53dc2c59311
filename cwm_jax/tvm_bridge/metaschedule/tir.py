"""TIR modules, as MetaSchedule tunes them -> `ComputeGraph`."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from cwm_jax.errors import GraphError
from cwm_jax.features.schedule_state import MAX_STAGES
from cwm_jax.records.graph import (
    OPERATION_KINDS,
    Axis,
    BufferRead,
    ComputeGraph,
    Stage,
)
from cwm_jax.records.steps import ANNOTATIONS, Step
from cwm_jax.tvm_bridge.expressions import (
    BlockBody,
    dtype_of,
    evaluate_index,
    parts_of,
    read_of,
)

_REDUCTION = 2
"""`IterVar.CommReduce`."""
_LAYOUT_FREE = "layout_free_buffers"
_MAIN = "main"
_ROOT = "root"
_KINDS = {1: "parallel", 2: "vectorize", 3: "unroll"}
"""`ForKind` -> annotation."""
_LARGEST_FUSED = 1 << 20
"""Iterations of a loop that are looked at to tell which axes it goes through."""
_MOST_OPERATIONS = 256
"""A point that costs more, for it holds loops, is described as one that costs so many."""


def graph_of_module(tvm: Any, module: Any, workload_key: str) -> ComputeGraph:
    """Converts a module of one function, as a user or TVM's operators write it.

    Stages are named as the blocks, and stand in their order, a block before those inside it; each
    input stands before the first block that reads it. What is done to the loops already becomes
    `ComputeGraph.initial_steps`.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function.
        workload_key: Names the workload.

    Raises:
        GraphError: The function has no blocks, too many, or what this package does not know.
    """
    try:
        function = tuned_function(module)
        builder = _Builder(tvm, function)
        for found in _found_blocks(function):
            builder.add_block(found)
        if not builder.written:
            raise ValueError("it has no block")
        if len(builder.stages) > MAX_STAGES:
            raise ValueError(f"{len(builder.stages)} stages, at most {MAX_STAGES}")
    except Exception as error:  # TVM's functions raise what they meet
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise GraphError(f"program {workload_key}: cannot be read ({reason[0]})") from error
    flop = flop_of_module(tvm, module)
    return ComputeGraph(workload_key, tuple(builder.stages), flop, tuple(builder.steps))


def flop_of_module(tvm: Any, module: Any) -> float:
    """Returns the floating-point operations of a module by TVM's count; 0 where it has none."""
    try:
        return float(tvm.s_tir.analysis.estimate_tir_flops(module))
    except Exception:  # TVM's count stumbles over vectors, and loops of unknown extent
        return 0.0


def tuned_function(module: Any) -> Any:
    """Returns the function of a module that MetaSchedule tunes: `main`, or the only one."""
    functions = {str(name.name_hint): function for name, function in module.functions_items()}
    return functions[_MAIN] if _MAIN in functions else next(iter(functions.values()))


def name_of_function(module: Any) -> str:
    """Returns what to call the function of a module: its name, or the last block of it."""
    try:
        function = tuned_function(module)
        name = str((function.attrs or {}).get("global_symbol", _MAIN))
        if name != _MAIN:
            return name
        return [str(found.block.name_hint) for found in _found_blocks(function)][-1]
    except Exception:  # only to say what cannot be read
        return _MAIN


class _FoundBlock(NamedTuple):
    """A block; `loops` are those around it, inside the block that it lies in."""

    block: Any
    bindings: Sequence[Any]
    loops: Sequence[Any]


def _found_blocks(function: Any) -> Iterator[_FoundBlock]:
    body = function.body
    if type(body).__name__ == "SBlockRealize" and str(body.block.name_hint) == _ROOT:
        body = body.block.body
    return _blocks_in(body, ())


def _blocks_in(statement: Any, loops: tuple[Any, ...]) -> Iterator[_FoundBlock]:
    kind = type(statement).__name__
    if kind == "SBlockRealize":
        block = statement.block
        yield _FoundBlock(block, list(statement.iter_values), loops)
        yield from _blocks_in(block.body, ())
    elif kind == "For":
        yield from _blocks_in(statement.body, (*loops, statement))
    else:
        for part in parts_of(statement):
            yield from _blocks_in(part, loops)


class _Nest(NamedTuple):
    """The axes of a block, and how its loops go through them.

    Attributes:
        axes: Spatial ones first, as in what the block writes.
        variables: Variables of the axes.
        steps: From one loop an axis to the loops that there are, without the stage.
    """

    axes: tuple[Axis, ...]
    variables: list[Any]
    steps: list[Step]


class _Part(NamedTuple):
    """What a loop does for an axis: every `every` iterations it makes one of `extent` steps."""

    loop: int
    every: int
    extent: int


class _Builder:
    def __init__(self, tvm: Any, function: Any) -> None:
        self._tvm = tvm
        self._analyzer = tvm.sym.Analyzer()
        self._inputs = list(function.params)
        free = function.attrs.get(_LAYOUT_FREE, ()) if function.attrs else ()
        self._packed = {int(at) for at in free}
        self._written_by: dict[Any, int] = {}
        self.stages: list[Stage] = []
        self.steps: list[Step] = []
        self.written = 0

    def add_block(self, found: _FoundBlock) -> None:
        block, body = found.block, BlockBody(found.block)
        self._bind(found)
        nest = self._nest(found, body)
        extents = [axis.extent for axis in nest.axes]
        reads: dict[BufferRead, None] = {}

        def coefficients(index: Any) -> list[int] | None:
            return self._coefficients(index, nest.variables)

        for buffer, indices in body.loads:
            shape = self._shape(buffer)
            producer = self._producer(buffer)
            read = read_of(producer, shape, indices, nest.variables, extents, coefficients)
            packed = any(buffer.same_as(self._inputs[at]) for at in self._packed)
            reads[replace(read, packed=packed)] = None
        for buffer in body.opaque_reads:
            none = (0,) * len(extents)
            reads[BufferRead(self._producer(buffer), none, affine=False)] = None
        if not body.simple:
            reads = self._in_order(reads, block)
        stage = len(self.stages)
        for buffer in body.writes:
            self._written_by[buffer] = stage
        written = body.writes[0] if body.writes else None
        most = math.inf if body.simple else _MOST_OPERATIONS
        self.written += 1
        self.stages.append(
            Stage(
                name=str(block.name_hint),
                kind="compute",
                tag="",
                dtype="float32" if written is None else dtype_of(written),
                shape=() if written is None else self._shape(written),
                axes=nest.axes,
                reads=tuple(reads),
                operations=tuple(int(min(body.operations[kind], most)) for kind in OPERATION_KINDS),
            )
        )
        self.steps += [Step(kind, (stage, *fields)) for kind, fields in nest.steps]

    def _bind(self, found: _FoundBlock) -> None:
        """Lets the analyzer know what values loops and axes take: extents may depend on them."""
        ranges = [(loop.loop_var, loop.min, loop.extent) for loop in found.loops]
        ranges += [(i.var, i.dom.min, i.dom.extent) for i in found.block.iter_vars]
        for variable, least, extent in ranges:
            try:
                most = self._analyzer.const_int_bound(least + extent - 1)
                low = self._analyzer.const_int_bound(least).min_value
                bound = self._tvm.ir.Range.from_min_extent(low, most.max_value - low + 1)
                self._analyzer.bind(variable, bound)
            except Exception:  # a symbol, of which nothing is known
                continue

    def _extent(self, expression: Any) -> int:
        """Returns an extent; the most that it can be where it varies, 0 where that is unknown."""
        simple = self._analyzer.simplify(expression)
        if type(simple).__name__ == "IntImm":
            return int(simple.value)
        most = int(self._analyzer.const_int_bound(simple).max_value)
        return most if 0 <= most < 2**31 else 0

    def _shape(self, buffer: Any) -> tuple[int, ...]:
        return tuple(self._extent(extent) for extent in buffer.shape)

    def _coefficients(self, index: Any, variables: Sequence[Any]) -> list[int] | None:
        try:
            found = list(self._tvm.sym.detect_linear_equation(index, variables))
            return [int(self._analyzer.simplify(value)) for value in found[:-1]] if found else None
        except (TypeError, ValueError, self._tvm.error.InternalError):  # as of a vector
            return None

    def _nest(self, found: _FoundBlock, body: "BlockBody") -> _Nest:
        iterators = self._ordered(found, body)
        loops = [loop.loop_var for loop in found.loops]
        extents = [self._extent(loop.extent) for loop in found.loops]
        by_axis = [self._parts(binding, loops, extents) for _, binding in iterators]
        axes = [
            Axis(
                str(iterator.var.name),
                self._axis_extent(iterator, parts, extents),
                int(iterator.iter_type) == _REDUCTION,
            )
            for (iterator, _), parts in zip(iterators, by_axis, strict=True)
        ]
        variables = [iterator.var for iterator, _ in iterators]
        known = [parts for parts in by_axis if parts is not None]
        if len(known) < len(by_axis):
            return _Nest(tuple(axes), variables, [])
        # A loop that no axis goes along repeats the others.
        used = {part.loop for parts in known for part in parts}
        for at, loop in enumerate(loops):
            if at not in used:
                axes.append(Axis(str(loop.name), extents[at], reduction=True))
                variables.append(loop)
                known.append([_Part(at, 1, extents[at])])
        steps = _initial_steps(axes, known, extents)
        if steps is None:
            return _Nest(tuple(axes), variables, [])
        for at, loop in enumerate(found.loops, sum(not parts for parts in known)):
            annotation = _annotation(loop)
            if annotation is not None:
                steps.append(Step("AN", (at, annotation)))
        return _Nest(tuple(axes), variables, steps)

    def _ordered(self, found: _FoundBlock, body: "BlockBody") -> list[tuple[Any, Any]]:
        """Iterators with what binds them: those of what is written in its order, then others."""
        pairs = list(zip(found.block.iter_vars, found.bindings, strict=True))
        if not body.indices and body.writes:  # TVM gives a scalar's block an axis all the same
            loops = [loop.loop_var for loop in found.loops]
            pairs = [
                (iterator, binding)
                for iterator, binding in pairs
                if int(iterator.iter_type) == _REDUCTION
                or self._extent(iterator.dom.extent) != 1
                or self._parts(binding, loops, [0] * len(loops)) != []
            ]

        def place(pair: tuple[Any, Any]) -> tuple[bool, int]:
            iterator, _ = pair
            written = [at for at, index in enumerate(body.indices) if index.same_as(iterator.var)]
            return int(iterator.iter_type) == _REDUCTION, written[0] if written else len(pairs)

        permuted = all(any(i.same_as(pair[0].var) for pair in pairs) for i in body.indices)
        return sorted(pairs, key=place if permuted else lambda pair: place(pair)[0])

    def _axis_extent(self, iterator: Any, parts: list[_Part] | None, loops: Sequence[int]) -> int:
        whole = self._extent(iterator.dom.extent)
        if parts is not None and len(parts) == 1:
            return parts[0].extent or whole
        return whole

    def _parts(
        self, binding: Any, loops: Sequence[Any], extents: Sequence[int]
    ) -> list[_Part] | None:
        """Which loops an axis is bound to, outermost first; None where that cannot be told."""
        found = self._coefficients(binding, loops)
        if found is None:
            return _digit(binding, loops, extents)
        moving = [(abs(step), at) for at, step in enumerate(found) if step != 0]
        parts, inner = [], 1
        for step, at in sorted(moving):
            if step != inner:
                return None
            parts.append(_Part(at, 1, extents[at]))
            inner *= extents[at]
        return parts[::-1]

    def _in_order(self, reads: dict[BufferRead, None], block: Any) -> dict[BufferRead, None]:
        """Puts reads in the order of the block's regions, by which instructions name them."""
        order = [self._written_by.get(region.source) for region in block.reads]
        known = {at: number for number, at in enumerate(order) if at is not None}
        return dict.fromkeys(sorted(reads, key=lambda read: known.get(read.producer, len(order))))

    def _producer(self, buffer: Any) -> int:
        if buffer not in self._written_by:
            none = (0,) * len(OPERATION_KINDS)
            name, dtype = str(buffer.name), dtype_of(buffer)
            self._written_by[buffer] = len(self.stages)
            shape = self._shape(buffer)
            self.stages.append(Stage(name, "placeholder", "", dtype, shape, (), (), none))
        return self._written_by[buffer]


def _annotation(loop: Any) -> int | None:
    if loop.thread_binding is not None:
        thread = str(loop.thread_binding.thread_tag)
        name = "vthread" if thread.startswith("vthread") else thread
    else:
        name = _KINDS.get(int(loop.kind), "")
    return ANNOTATIONS.index(name) if name in ANNOTATIONS else None


def _digit(binding: Any, loops: Sequence[Any], extents: Sequence[int]) -> list[_Part] | None:
    """The part of an axis that is a quotient or a remainder of one loop, as `loop // 8 % 4`."""
    for at, (loop, extent) in enumerate(zip(loops, extents, strict=True)):
        if not 0 < extent <= _LARGEST_FUSED:
            continue
        steps = np.arange(extent)
        try:
            values = evaluate_index(binding, [loop], [steps])
        except ValueError:  # of another loop
            continue
        every = int(np.argmax(values != 0)) or extent
        taken = int(values.max()) + 1
        if (values == steps // every % taken).all():
            return [_Part(at, every, taken)]
    return None


def _initial_steps(
    axes: Sequence[Axis], by_axis: Sequence[Sequence[_Part]], extents: Sequence[int]
) -> list[Step] | None:
    """Steps from one loop an axis to the loops that there are; None where none lead there.

    Args:
        axes: Axes in order.
        by_axis: Parts of each, outermost first.
        extents: Extents of the loops.
    """
    steps: list[Step] = []
    nest: list[tuple[int, int]] = []
    for axis, parts in enumerate(by_axis):
        if len(parts) > 1:
            factors = tuple(part.extent for part in parts[1:])
            steps.append(Step("SP", (len(nest), axes[axis].extent, factors, 1)))
        nest += [(axis, at) for at in range(max(len(parts), 1))]
    of_loop: list[list[tuple[int, int]]] = [[] for _ in extents]
    for axis, parts in enumerate(by_axis):
        for at, part in enumerate(parts):
            of_loop[part.loop].append((axis, at))
    for loop, members in enumerate(of_loop):
        members.sort(key=lambda member: -by_axis[member[0]][member[1]].every)
        inner = 1
        for axis, at in reversed(members):
            part = by_axis[axis][at]
            if part.every != inner:
                return None
            inner *= part.extent
        if inner != extents[loop]:
            return None
    unbound = [(axis, 0) for axis, parts in enumerate(by_axis) if not parts]
    order = [*unbound, *itertools.chain(*of_loop)]
    if order != nest:
        steps.append(Step("RE", (tuple(nest.index(member) for member in order),)))
    for at, members in enumerate(of_loop, len(unbound)):
        if len(members) > 1:
            steps.append(Step("FU", (tuple(range(at, at + len(members))),)))
    return steps
