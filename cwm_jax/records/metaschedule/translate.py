"""MetaSchedule's traces -> the steps that all engines share.

A trace addresses blocks and loops by variables. Here they are resolved to stages and loop
positions by the same integer bookkeeping that `cwm_jax.features.schedule_state` does for steps: a
block's own loops are its nest, and a block that moved under another's loop keeps only the loops
inside that loop.

Annotations that a postprocessor acts on are translated into what it does
(`cwm_jax.records.metaschedule.postprocess`), so a trace means the same before and after it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from cwm_jax.errors import RecordError
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.metaschedule.block import MAX_NUMBER, Block, BlockLayout, BlockLoop, layout_of
from cwm_jax.records.metaschedule.postprocess import apply_root_annotations
from cwm_jax.records.metaschedule.state import Blocks
from cwm_jax.records.metaschedule.trace import Instruction, Trace, Variable
from cwm_jax.records.steps import ANNOTATIONS, METASCHEDULE_TAGS, Step

_ROOT = -1
"""Decision of `SampleComputeLocation`: leave the block where it is."""
_INLINE = -2
"""Decision of `SampleComputeLocation`: inline the block."""

_MARKERS = {_INLINE: "inline", _ROOT: "root"}
_PREFIX = "meta_schedule."
_ON_ROOT = ("parallel", "vectorize", "unroll_explicit", "unroll_implicit")
_PARALLEL = ANNOTATIONS.index("parallel")
_VECTORIZE = ANNOTATIONS.index("vectorize")
_UNROLL = ANNOTATIONS.index("unroll")
_VTHREAD = ANNOTATIONS.index("vthread")
_ROOT_NAMES = ("root",)
_NAMES_OF_NOTED = {"DecomposePadding": "{}_pad_const"}
"""Instruction -> name of the block that it makes, from that of the block it takes."""

Unread = Callable[[RecordError], None]
"""Takes the reason why a trace cannot be followed."""


def translate_trace(trace: Trace, graph: ComputeGraph) -> tuple[Step, ...]:
    """Translates a trace into steps.

    Args:
        trace: Trace of a schedule of the workload.
        graph: Its stages are named as the blocks of the module.

    Raises:
        RecordError: The trace is not one of this workload, or malformed; the message names the
            instruction.
    """
    return next(translate_traces([trace], graph))


def translate_traces(
    traces: Iterable[Trace], graph: ComputeGraph, unread: Unread | None = None
) -> Iterator[tuple[Step, ...]]:
    """Translates traces of one workload into steps, as `translate_trace` does one.

    Args:
        traces: Traces of schedules of the workload.
        graph: Its stages are named as the blocks of the module; without any, a trace says by
            itself which blocks there are.
        unread: Given where TVM made the traces, so that none may be refused: takes the reason why
            one cannot be followed, which is then translated as far as it says by itself.

    Raises:
        RecordError: As for `translate_trace`, unless `unread` is given.
    """
    layout = layout_of(graph)
    for trace in traces:
        try:
            steps = _translated(trace, graph, layout, whole=True)
        except RecordError as error:
            if unread is None:
                raise
            unread(error)
            steps = _translated(trace, graph, layout, whole=False)
        yield steps


def _translated(
    trace: Trace, graph: ComputeGraph, layout: BlockLayout, *, whole: bool
) -> tuple[Step, ...]:
    translator = _Translator(layout, graph.initial_steps, trace.decisions)
    for position, instruction in enumerate(trace.instructions):
        try:
            translator.apply(position, instruction)
        except RecordError as error:
            if whole:
                raise RecordError(f"{_named(position, instruction)}: {error}") from None
            translator.skip(instruction)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            if whole:
                where = _named(position, instruction)
                raise RecordError(f"{where}: malformed ({error!r})") from error
            translator.skip(instruction)
    return translator.finish()


def _named(position: int, instruction: Instruction) -> str:
    return f"instruction {position} ({instruction.kind})"


class _Translator:
    def __init__(
        self, layout: BlockLayout, initial: Sequence[Step], decisions: dict[int, Any]
    ) -> None:
        self._blocks = Blocks(layout)
        self._blocks.begin(initial)
        self._traces_alone = not layout
        self._decisions = decisions
        self._variables: dict[str, Any] = {}
        self._steps: list[Step] = list(initial)
        self._root: dict[str, int] = {}
        self._position = 0

    def apply(self, position: int, instruction: Instruction) -> None:
        self._position = position
        handler = _HANDLERS.get(instruction.kind)
        if handler is None:
            raise RecordError("an instruction that this version does not know")
        outputs = handler(self, instruction)
        if len(outputs) != len(instruction.outputs):
            raise RecordError(
                f"sets {len(instruction.outputs)} variables, expected {len(outputs)}: the trace "
                "is not one of this program"
            )
        self._variables.update(zip(instruction.outputs, outputs, strict=True))

    def skip(self, instruction: Instruction) -> None:
        """Records that an instruction is not supported: its results are unknown."""
        known = [self._variables.get(given) for given in instruction.inputs]
        block = next((found for found in known if isinstance(found, Block)), None)
        if block is not None:
            self._emit("IN", block, 0, instruction.kind)
        drawn = self._decisions.get(self._position)
        for at, name in enumerate(instruction.outputs):
            if name.startswith("b"):
                self._variables[name] = self._stand_in(name)
            elif name.startswith("l"):
                self._variables[name] = self._blocks.loops(block or self._stand_in(name), 1)[0]
            else:
                values = drawn if isinstance(drawn, list) else []
                self._variables[name] = values[at] if at < len(values) else 1

    def _stand_in(self, name: str) -> Block:
        """Returns a block of which a trace alone tells; where there are too many, the last one."""
        try:
            return self._blocks.adopt(name)
        except RecordError:
            return self._blocks.last()

    def finish(self) -> tuple[Step, ...]:
        if self._root:
            apply_root_annotations(self._blocks, self._root, self._emit)
        return tuple(self._steps)

    def _emit(self, kind: str, block: Block, *fields: Any) -> None:
        self._steps.append(Step(kind, (block.position, *fields)))

    def _value(self, given: Any) -> Any:
        if type(given) is not Variable:
            return given
        try:
            return self._variables[given]
        except KeyError:
            raise RecordError(f"variable {given!r} is not set") from None

    def _block(self, given: Any) -> Block:
        found = self._value(given)
        if not isinstance(found, Block):
            raise RecordError(f"{given!r} is no block, expected one")
        return found

    def _loop(self, given: Any) -> BlockLoop:
        found = self._value(given)
        if not isinstance(found, BlockLoop):
            raise RecordError(f"{given!r} is no loop, expected one")
        return found

    def _drawn(self) -> Any:
        if self._position not in self._decisions:
            raise RecordError("has no decision")
        return self._decisions[self._position]

    # What is drawn.

    def _sample_categorical(self, instruction: Instruction) -> list[Any]:
        return [instruction.attributes[0][self._drawn()]]

    def _sample_tile(self, instruction: Instruction) -> list[Any]:
        return list(map(int, self._drawn()))

    def _sample_location(self, instruction: Instruction) -> list[Any]:
        at = self._drawn()
        if at in _MARKERS:
            return [_MARKERS[at]]
        consumers = self._blocks.consumers(self._block(instruction.inputs[0]))
        loops = self._blocks.common_loops(consumers)
        if at < 0:
            raise RecordError(f"location {at}, expected a loop")
        # In place of a loop that is not there or makes one step TVM takes the next one outside.
        outwards = reversed(loops[: at + 1])
        return [next((loop for loop in outwards if loop.extent != 1), _MARKERS[_ROOT])]

    # What is addressed.

    def _get_block(self, instruction: Instruction) -> list[Any]:
        name = instruction.attributes[0]
        if name in _ROOT_NAMES:
            return [None]
        if self._traces_alone and not self._blocks.has(name):
            found = self._stand_in(name)
            found.apart = False
            return [found]
        return [self._blocks.named(name)]

    def _get_loops(self, instruction: Instruction) -> list[Any]:
        block = self._block(instruction.inputs[0])
        return self._blocks.loops(block, len(instruction.outputs))

    def _get_producers(self, instruction: Instruction) -> list[Any]:
        return self._blocks.producers(self._block(instruction.inputs[0]))

    def _get_consumers(self, instruction: Instruction) -> list[Any]:
        return self._blocks.consumers(self._block(instruction.inputs[0]))

    def _get_output_blocks(self, instruction: Instruction) -> list[Any]:
        return self._blocks.outputs()

    def _get_child_blocks(self, instruction: Instruction) -> list[Any]:
        parent = self._value(instruction.inputs[0])
        found = self._blocks.computed()
        if isinstance(parent, BlockLoop):
            return [block for block in found if parent in self._blocks.nest(block)]
        return found

    # Loops.

    def _split(self, instruction: Instruction) -> list[Any]:
        loop = self._loop(instruction.inputs[0])
        factors = [self._value(factor) for factor in instruction.inputs[1:]]
        extent, at = loop.extent, loop.position
        parts = self._blocks.split(loop, factors)
        inner = tuple(part.extent for part in parts[1:])
        self._emit("SP", loop.block, at, extent, inner, 1)
        return parts

    def _fuse(self, instruction: Instruction) -> list[Any]:
        loops = [self._loop(given) for given in instruction.inputs]
        if len(loops) == 1:
            return loops
        positions = tuple(loop.position for loop in loops)
        fused = self._blocks.fuse(loops)
        self._emit("FU", loops[0].block, positions)
        return [fused]

    def _reorder(self, instruction: Instruction) -> list[Any]:
        loops = [self._loop(given) for given in instruction.inputs]
        for block in dict.fromkeys(loop.block for loop in loops):
            order = self._blocks.reorder(block, [loop for loop in loops if loop.block is block])
            self._emit("RE", block, order)
        return []

    def _add_unit_loop(self, instruction: Instruction) -> list[Any]:
        where = self._value(instruction.inputs[0])
        block = where if isinstance(where, Block) else self._loop(instruction.inputs[0]).block
        self._emit("FU", block, ())
        return [block.insert_unit_loop()]

    def _annotated_loop(self, loop: BlockLoop, annotation: int) -> list[Any]:
        self._emit("AN", loop.block, loop.position, annotation)
        loop.annotated = True
        return []

    def _parallel(self, instruction: Instruction) -> list[Any]:
        return self._annotated_loop(self._loop(instruction.inputs[0]), _PARALLEL)

    def _vectorize(self, instruction: Instruction) -> list[Any]:
        return self._annotated_loop(self._loop(instruction.inputs[0]), _VECTORIZE)

    def _unroll(self, instruction: Instruction) -> list[Any]:
        return self._annotated_loop(self._loop(instruction.inputs[0]), _UNROLL)

    def _bind(self, instruction: Instruction) -> list[Any]:
        thread = str(instruction.attributes[0])
        known = _VTHREAD if thread.startswith("vthread") else ANNOTATIONS.index(thread)
        return self._annotated_loop(self._loop(instruction.inputs[0]), known)

    # Blocks.

    def _compute_at(self, instruction: Instruction) -> list[Any]:
        block = self._block(instruction.inputs[0])
        where = self._value(instruction.inputs[1])
        if where == _MARKERS[_ROOT]:
            return []
        if where == _MARKERS[_INLINE]:
            return self._inline(instruction)
        self._move(block, self._loop(instruction.inputs[1]), reads_target=False)
        return []

    def _reverse_compute_at(self, instruction: Instruction) -> list[Any]:
        if not isinstance(self._value(instruction.inputs[1]), str):
            block = self._block(instruction.inputs[0])
            self._move(block, self._loop(instruction.inputs[1]), reads_target=True)
        return []

    def _move(self, block: Block, target: BlockLoop, *, reads_target: bool) -> None:
        at, position = target.block.position, target.position
        self._blocks.move_under(block, target, reads_target=reads_target)
        extents = tuple(loop.extent for loop in block.loops)
        self._emit("MV", block, at, position, int(reads_target), extents)

    def _inline(self, instruction: Instruction) -> list[Any]:
        block = self._block(instruction.inputs[0])
        self._emit("CI", block)
        self._blocks.inline(block)
        return []

    def _reverse_inline(self, instruction: Instruction) -> list[Any]:
        block = self._block(instruction.inputs[0])
        self._emit("CI", block)
        self._blocks.inline_into_producer(block)
        return []

    def _fuse_epilogue(self, instruction: Instruction) -> list[Any]:
        reduction, epilogue = map(self._block, instruction.inputs)
        self._emit("CI", epilogue)
        self._blocks.inline_into_producer(epilogue, reduction)
        return []

    def _cache_read(self, instruction: Instruction) -> list[Any]:
        block = self._block(instruction.inputs[0])
        index, scope = instruction.attributes[0], instruction.attributes[-1]
        given = instruction.inputs[-1]  # consumers, or an index map
        consumers = given if isinstance(given, tuple) else ()
        readers = [self._block(given) for given in consumers] or [block]
        source = block.producers[index]
        positions = tuple(reader.position for reader in readers)
        self._emit("CHR", source, str(scope), positions)
        return [self._blocks.cache_read(source, readers, str(scope))]

    def _cache_write(self, instruction: Instruction) -> list[Any]:
        block = self._block(instruction.inputs[0])
        scope = str(instruction.attributes[-1])
        self._emit("CHW", block, scope)
        return [self._blocks.cache_write(block, scope)]

    def _reindex(self, instruction: Instruction) -> list[Any]:
        block = self._block(instruction.inputs[0])
        index, is_write = instruction.attributes[:2]
        if is_write:
            self._emit("CHW", block, "global")
            return [self._blocks.cache_write(block, "reindex")]
        source = block.producers[index]
        self._emit("CHR", source, "global", (block.position,))
        return [self._blocks.cache_read(source, [block], "reindex")]

    def _rfactor(self, instruction: Instruction) -> list[Any]:
        loop = self._loop(instruction.inputs[0])
        block, at = loop.block, loop.position
        factor_axis = int(instruction.attributes[0])
        self._emit("RF", block, at, factor_axis)
        final, order = self._blocks.rfactor(loop, factor_axis)
        self._emit("RE", block, order)
        for name, value in self._variables.items():
            if value is block:
                self._variables[name] = final
        return [block]

    def _storage_align(self, instruction: Instruction) -> list[Any]:
        block = self._block(instruction.inputs[0])
        _, axis, factor, offset = map(int, instruction.attributes)
        self._emit("SA", block, max(axis, 0), _number("factor", factor), _number("offset", offset))
        return []

    def _set_scope(self, instruction: Instruction) -> list[Any]:
        self._emit("SC", self._block(instruction.inputs[0]), str(instruction.attributes[-1]))
        return []

    def _pad_einsum(self, instruction: Instruction) -> list[Any]:
        paddings = tuple(_number("padding", int(given)) for given in instruction.attributes[0])
        block = self._block(instruction.inputs[0])
        self._emit("PD", block, paddings)
        self._blocks.pad(block)
        return []

    def _tensorize(self, instruction: Instruction) -> list[Any]:
        self._emit("TZ", *self._place(instruction.inputs[0]), str(instruction.attributes[0]))
        return []

    def _blockize(self, instruction: Instruction) -> list[Any]:
        given = instruction.inputs[0]
        first = given[0] if isinstance(given, tuple) else given
        block, at = self._place(first)
        self._emit("IN", block, at, instruction.kind)
        loop = self._value(first)
        if isinstance(loop, BlockLoop):
            self._blocks.enclose(loop)
        return [block]

    def _place(self, given: Any) -> tuple[Block, int]:
        where = self._value(given)
        if isinstance(where, BlockLoop):
            return where.block, where.position
        return self._block(given), 0

    # Annotations.

    def _annotate(self, instruction: Instruction) -> list[Any]:
        key = str(instruction.attributes[0]).removeprefix(_PREFIX)
        value = self._value(instruction.inputs[1])
        # The root need not be called so: it may be the one block of a function.
        if self._value(instruction.inputs[0]) is None or key in _ON_ROOT:
            if key in _ON_ROOT and isinstance(value, int):
                self._root[key] = value
            return []
        if key.removeprefix("pragma_") == "auto_unroll_max_step" or key in METASCHEDULE_TAGS:
            number = f"${value}" if isinstance(value, int) and 0 <= value < 10**9 else ""
            name = key.removeprefix("pragma_") + number
            self._emit("PR", *self._place(instruction.inputs[0]), name)
        return []

    def _unannotate(self, instruction: Instruction) -> list[Any]:
        self._root.pop(str(instruction.attributes[0]).removeprefix(_PREFIX), None)
        return []

    def _note(self, instruction: Instruction) -> list[Any]:
        """An instruction that is noted: loops that it sets are those that it takes."""
        block, at = self._place(instruction.inputs[0])
        self._emit("IN", block, at, instruction.kind)
        loops = [given for given in instruction.inputs if isinstance(self._value(given), BlockLoop)]
        given = self._value((loops or instruction.inputs)[0])
        return [
            self._stand_in(_NAMES_OF_NOTED.get(instruction.kind, "{}").format(block.name))
            if name.startswith("b")
            else given
            for name in instruction.outputs
        ]

    def _decompose_reduction(self, instruction: Instruction) -> list[Any]:
        block = self._block(instruction.inputs[0])
        loop = self._loop(instruction.inputs[1])
        self._emit("IN", block, loop.position, instruction.kind)
        return [self._blocks.decompose(block, loop)]


def _number(name: str, value: int) -> int:
    if not 0 <= value < MAX_NUMBER:
        raise RecordError(f"{name} {value}, expected an integer in [0, {MAX_NUMBER})")
    return value


_HANDLERS: dict[str, Callable[[_Translator, Instruction], list[Any]]] = {
    "SampleCategorical": _Translator._sample_categorical,
    "SamplePerfectTile": _Translator._sample_tile,
    "SamplePartitionedTile": _Translator._sample_tile,
    "SampleComputeLocation": _Translator._sample_location,
    "GetSBlock": _Translator._get_block,
    "GetBlock": _Translator._get_block,  # its name in TVM before 0.22
    "GetLoops": _Translator._get_loops,
    "GetChildBlocks": _Translator._get_child_blocks,
    "GetProducers": _Translator._get_producers,
    "GetConsumers": _Translator._get_consumers,
    "GetOutputBlocks": _Translator._get_output_blocks,
    "Split": _Translator._split,
    "Fuse": _Translator._fuse,
    "Reorder": _Translator._reorder,
    "AddUnitLoop": _Translator._add_unit_loop,
    "Parallel": _Translator._parallel,
    "Vectorize": _Translator._vectorize,
    "Unroll": _Translator._unroll,
    "Bind": _Translator._bind,
    "CacheRead": _Translator._cache_read,
    "CacheWrite": _Translator._cache_write,
    "ReindexCacheRead": _Translator._cache_read,
    "ReindexCacheWrite": _Translator._cache_write,
    "ReIndex": _Translator._reindex,
    "ComputeAt": _Translator._compute_at,
    "ReverseComputeAt": _Translator._reverse_compute_at,
    "ComputeInline": _Translator._inline,
    "ReverseComputeInline": _Translator._reverse_inline,
    "FuseReductionEpilogue": _Translator._fuse_epilogue,
    "DecomposeReduction": _Translator._decompose_reduction,
    "RFactor": _Translator._rfactor,
    "StorageAlign": _Translator._storage_align,
    "SetScope": _Translator._set_scope,
    "PadEinsum": _Translator._pad_einsum,
    "Tensorize": _Translator._tensorize,
    "Blockize": _Translator._blockize,
    "Annotate": _Translator._annotate,
    "Unannotate": _Translator._unannotate,
    **dict.fromkeys(
        (
            "AnnotateBufferAccess",
            "CacheIndex",
            "CacheInplace",
            "DecomposePadding",
            "LoopPartition",
            "Merge",
            "ReadAt",
            "ReorderBlockIterVar",
            "RollingBuffer",
            "TransformBlockLayout",
            "TransformLayout",
            "UnsafeHideBufferAccess",
            "UnsafeSetDType",
            "WriteAt",
        ),
        _Translator._note,
    ),
}
"""Every instruction kind of TVM 0.27 but `EnterPostproc`."""
