"""The vocabulary of schedule steps: what each kind's fields mean.

Ansor's kinds and field order follow `src/auto_scheduler/transform_step.cc` of TVM 0.17
(`WriteToRecord` of each step). MetaSchedule's instructions are translated into the same kinds
(`cwm_jax.records.metaschedule.translate`) and the few more of `METASCHEDULE_STEPS`.
"""

import enum
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar


class Role(enum.Enum):
    """Says what a field of a step means, which decides how it is encoded."""

    STAGE = "stage"
    """Id of a stage, in the numbering at the time of the step."""
    STAGES = "stages"
    """List of stage ids."""
    ITERATOR = "iterator"
    """Position of a loop in the addressed stage's nest."""
    ITERATORS = "iterators"
    """List of loop positions."""
    STEP = "step"
    """Index of an earlier step."""
    STEPS = "steps"
    """List of indices of earlier steps."""
    LEVEL = "level"
    """A small count or flag that changes the structure of the loop nest."""
    NUMBER = "number"
    """A free number: an extent, a factor, an offset."""
    NUMBERS = "numbers"
    """A list of free numbers: tile sizes."""
    TAG = "tag"
    """A word or an enumeration value."""


class Step(NamedTuple):
    """Holds one transformation of a schedule, such as a split or a compute-at.

    Examples:
        >>> split = Step("SP", (2, 0, 64, (4, 8), 1))  # loop 0 of stage 2, of extent 64, by 4 and 8
        >>> {field.name: value for field, value in fields_of(split.kind, split.fields)}["factors"]
        (4, 8)

    Attributes:
        kind: A key of `STEPS`.
        fields: The step's fields in the order of its schema; lists are tuples.
    """

    kind: str
    fields: tuple[int | str | tuple[int, ...], ...]


class Field(NamedTuple):
    """Name and role of one field of a step kind."""

    name: str
    role: Role


def _fields(**roles: Role) -> tuple[Field, ...]:
    return tuple(Field(name, role) for name, role in roles.items())


ANSOR_STEPS: dict[str, tuple[Field, ...]] = {
    "AN": _fields(stage=Role.STAGE, iterator=Role.ITERATOR, annotation=Role.TAG),
    "FU": _fields(stage=Role.STAGE, fused=Role.ITERATORS),
    "PR": _fields(stage=Role.STAGE, iterator=Role.ITERATOR, pragma=Role.TAG),
    "RE": _fields(stage=Role.STAGE, order=Role.ITERATORS),
    "SP": _fields(
        stage=Role.STAGE,
        iterator=Role.ITERATOR,
        extent=Role.NUMBER,
        factors=Role.NUMBERS,
        inner_to_outer=Role.LEVEL,
    ),
    "FSP": _fields(
        stage=Role.STAGE, iterator=Role.ITERATOR, source_step=Role.STEP, parts=Role.LEVEL
    ),
    "FFSP": _fields(
        stage=Role.STAGE,
        iterator=Role.ITERATOR,
        source_steps=Role.STEPS,
        level=Role.LEVEL,
        factor_or_parts=Role.LEVEL,
    ),
    "SA": _fields(stage=Role.STAGE, iterator=Role.ITERATOR, factor=Role.NUMBER, offset=Role.NUMBER),
    "CA": _fields(stage=Role.STAGE, target_stage=Role.STAGE, target_iterator=Role.ITERATOR),
    "CI": _fields(stage=Role.STAGE),
    "CR": _fields(stage=Role.STAGE),
    "CHR": _fields(stage=Role.STAGE, scope=Role.TAG, readers=Role.STAGES),
    "CHW": _fields(stage=Role.STAGE, scope=Role.TAG),
    "RF": _fields(stage=Role.STAGE, iterator=Role.ITERATOR, factor_position=Role.ITERATOR),
}
"""Field names and roles of Ansor's 14 step kinds."""

METASCHEDULE_STEPS: dict[str, tuple[Field, ...]] = {
    # A stage moves under a loop of one that it reads or that reads it, and keeps a loop of these
    # extents for each of its axes.
    "MV": _fields(
        stage=Role.STAGE,
        target_stage=Role.STAGE,
        target_iterator=Role.ITERATOR,
        reads_target=Role.LEVEL,
        extents=Role.NUMBERS,
    ),
    "TZ": _fields(stage=Role.STAGE, iterator=Role.ITERATOR, intrinsic=Role.TAG),
    "SC": _fields(stage=Role.STAGE, scope=Role.TAG),
    "PD": _fields(stage=Role.STAGE, paddings=Role.NUMBERS),
    # An instruction that leaves the loop nests as they are.
    "IN": _fields(stage=Role.STAGE, iterator=Role.ITERATOR, instruction=Role.TAG),
}
"""Field names and roles of the steps that only MetaSchedule has."""

STEPS = ANSOR_STEPS | METASCHEDULE_STEPS

Value = TypeVar("Value")


def fields_of(kind: str, values: Sequence[Value]) -> Iterator[tuple[Field, Value]]:
    """Pairs the values of a step's fields with their names and roles.

    Args:
        kind: A key of `STEPS`.
        values: One for each field of the step.

    Raises:
        ValueError: There are more or fewer values than fields.

    Examples:
        >>> [field.name for field, _ in fields_of("CA", (3, 4, 1))]
        ['stage', 'target_stage', 'target_iterator']
    """
    return zip(STEPS[kind], values, strict=True)


LIST_ROLES = frozenset({Role.STAGES, Role.ITERATORS, Role.STEPS, Role.NUMBERS})

ANNOTATIONS = (
    "none",
    "unroll",
    "vectorize",
    "parallel",
    "vthread",
    "blockIdx.x",
    "threadIdx.x",
    "blockIdx.y",
    "threadIdx.y",
    "blockIdx.z",
    "threadIdx.z",
    "tensorize",
)
"""Names of Ansor's `IteratorAnnotation` values, by value."""

PRAGMAS = ("auto_unroll_max_step", "tensor_core", "debug_skip_region")
SCOPES = ("local", "shared", "global", "warp", "wmma.matrix_a", "wmma.matrix_b", "wmma.accumulator")

METASCHEDULE_TAGS = (
    "cooperative_fetch",
    "auto_tensorize",
    "double_buffer_scope",
    "software_pipeline_stage",
    "software_pipeline_order",
    "Blockize",
    "DecomposeReduction",
    "DecomposePadding",
    "TransformLayout",
    "TransformBlockLayout",
    "RollingBuffer",
)
"""Annotations and instructions of MetaSchedule that have a tag of their own."""

OTHER_TAG = "<other>"
STEP_KINDS = ("<padding>", *ANSOR_STEPS, *METASCHEDULE_STEPS)
TAGS = ("<none>", OTHER_TAG, *ANNOTATIONS, *PRAGMAS, *SCOPES, *METASCHEDULE_TAGS)
"""Vocabularies of the model's embeddings.

New names may stand anywhere: checkpoints store names, not positions
(`cwm_jax.model.vocabulary`). A name keeps its meaning: a kind whose fields change gets a new one.
"""

STEP_KIND_IDS = {kind: position for position, kind in enumerate(STEP_KINDS)}
_TAG_IDS = {tag: position for position, tag in enumerate(TAGS)}
_NUMBERED_PRAGMA = re.compile(r"(.*)\$(\d{1,9})")


def split_tag(kind: str, value: int | str) -> tuple[int, int]:
    """Reads a `TAG` field.

    Returns:
        The tag's position in `TAGS` (`<other>` if unknown) and the number that it carries, as
        in `auto_unroll_max_step$64`, or 0.

    Examples:
        >>> at, number = split_tag("PR", "auto_unroll_max_step$64")
        >>> TAGS[at], number
        ('auto_unroll_max_step', 64)
    """
    number = 0
    if kind == "AN":
        in_range = isinstance(value, int) and 0 <= value < len(ANNOTATIONS)
        name = ANNOTATIONS[value] if in_range else OTHER_TAG  # type: ignore[index]
    else:
        name = str(value)
        if numbered := _NUMBERED_PRAGMA.fullmatch(name):
            name, number = numbered[1], int(numbered[2])
    return _TAG_IDS.get(name, _TAG_IDS[OTHER_TAG]), number


def join_tag(value: int | str, number: int) -> int | str:
    """Returns a `TAG` field with another number, where it carries one (see `split_tag`)."""
    numbered = isinstance(value, str) and _NUMBERED_PRAGMA.fullmatch(value)
    return f"{numbered[1]}${number}" if numbered else value
