"""TIR modules, as MetaSchedule tunes them -> `Program`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cwm_jax.errors import ProgramError
from cwm_jax.records.program import (
    OPERATION_KINDS,
    Axis,
    BufferRead,
    Program,
    ProgramStage,
)
from cwm_jax.tvm_bridge.expressions import dtype_of, read_of, visit_expression

_REDUCTION = 2
"""`IterVar.CommReduce`."""
_LAYOUT_FREE = "layout_free_buffers"
_MAIN = "main"


def program_of_module(tvm: Any, module: Any, workload_key: str) -> Program:
    """Converts a module of one function that no schedule has touched.

    Stages are named as the blocks, and stand in their order; each input stands before the first
    block that reads it.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` with the function `main`.
        workload_key: Names the program.

    Raises:
        ProgramError: The function is none that MetaSchedule tunes: blocks are nested, or shapes
            are not constant.
    """
    try:
        schedule = tvm.s_tir.Schedule(module)
        function = module[_MAIN]
        blocks = list(schedule.get_child_blocks(schedule.get_sblock("root", _MAIN)))
        builder = _Builder(tvm, function)
        for block in blocks:
            loops = [schedule.get(loop) for loop in schedule.get_loops(block)]
            builder.add_block(schedule.get(block), loops)
        flop = float(tvm.s_tir.analysis.estimate_tir_flops(module))
    except (tvm.error.InternalError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ProgramError(f"program {workload_key}: cannot be read ({error})") from error
    return Program(workload_key, tuple(builder.stages), flop)


class _Builder:
    def __init__(self, tvm: Any, function: Any) -> None:
        self._tvm = tvm
        self._inputs = list(function.params)
        free = function.attrs.get(_LAYOUT_FREE, ()) if function.attrs else ()
        self._packed = {int(at) for at in free}
        self._written_by: dict[Any, int] = {}
        self.stages: list[ProgramStage] = []

    def add_block(self, block: Any, loops: Sequence[Any]) -> None:
        if type(block.body).__name__ != "BufferStore":
            raise ValueError(f"block {block.name_hint} computes more than one buffer or has loops")
        store = block.body
        analyzer = self._tvm.sym.Analyzer()
        iterators = list(block.iter_vars)
        reduces = [int(iterator.iter_type) == _REDUCTION for iterator in iterators]
        extents = [int(iterator.dom.extent) for iterator in iterators]
        if [int(loop.extent) for loop in loops] != extents:
            raise ValueError(f"block {block.name_hint} is scheduled already")
        variables = [iterator.var for iterator in iterators]
        counts: dict[str, int] = dict.fromkeys(OPERATION_KINDS, 0)
        reads: dict[BufferRead, None] = {}

        def coefficients(index: Any) -> list[int] | None:
            found = list(self._tvm.sym.detect_linear_equation(index, variables))
            if not found:
                return None
            try:
                return [int(analyzer.simplify(coefficient)) for coefficient in found[:-1]]
            except (TypeError, ValueError):
                return None

        def note_read(load: Any) -> None:
            buffer = load.source
            if buffer.same_as(store.buffer):
                return
            producer = self._producer(buffer)
            shape = [int(extent) for extent in buffer.shape]
            indices = list(load.indices)
            read = read_of(producer, shape, indices, variables, extents, coefficients)
            packed = any(buffer.same_as(self._inputs[at]) for at in self._packed)
            reads[replace(read, packed=packed)] = None

        visit_expression(store.value, counts, note_read)
        axes = tuple(
            Axis(str(variable.name), extent, reduce)
            for variable, extent, reduce in zip(variables, extents, reduces, strict=True)
        )
        self._written_by[store.buffer] = len(self.stages)
        self.stages.append(
            ProgramStage(
                name=str(block.name_hint),
                kind="compute",
                tag="",
                dtype=dtype_of(store.buffer),
                shape=tuple(int(extent) for extent in store.buffer.shape),
                axes=axes,
                reads=tuple(reads),
                operations=tuple(counts[kind] for kind in OPERATION_KINDS),
            )
        )

    def _producer(self, buffer: Any) -> int:
        if buffer not in self._written_by:
            none = (0,) * len(OPERATION_KINDS)
            shape = tuple(int(extent) for extent in buffer.shape)
            name, dtype = str(buffer.name), dtype_of(buffer)
            self._written_by[buffer] = len(self.stages)
            self.stages.append(ProgramStage(name, "placeholder", "", dtype, shape, (), (), none))
        return self._written_by[buffer]
