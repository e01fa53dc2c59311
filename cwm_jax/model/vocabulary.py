"""Vocabularies whose names are rows of parameters, and how rows of other versions are mapped.

A card lists each vocabulary by name, so that a version with more names, or with names in another
order, loads the checkpoint: each row goes where its name is now. A name that the checkpoint does
not know gets a row that changes no score of what it does know:

- a step kind, and a column of features, get zeros;
- a tag gets the row of `<other>`, which stood for it when the checkpoint was trained.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cwm_jax.features.columns import COLUMNS
from cwm_jax.features.graph import GLOBAL_COLUMNS, STAGE_COLUMNS
from cwm_jax.features.hardware import HARDWARE_COLUMNS
from cwm_jax.records.steps import OTHER_TAG, STEP_KINDS, TAGS

Vocabulary = Mapping[str, Sequence[str]]
"""Names by vocabulary, in the order of their rows."""

VOCABULARY: Vocabulary = {
    "step_kinds": STEP_KINDS,
    "tags": TAGS,
    "step_columns": tuple(COLUMNS),
    "stage_columns": STAGE_COLUMNS,
    "graph_columns": GLOBAL_COLUMNS,
    "hardware_columns": HARDWARE_COLUMNS,
}
"""The names of this version."""


class _Rows(NamedTuple):
    """Which rows a vocabulary names: the first of the axis behind that of the members."""

    path: tuple[str, ...]
    vocabulary: str
    default: str | None = None


_NAMED_ROWS = (
    _Rows(("step", "kind", "embedding"), "step_kinds"),
    _Rows(("step", "tag", "embedding"), "tags", default=OTHER_TAG),
    _Rows(("step", "values", "kernel"), "step_columns"),
    _Rows(("step", "device", "kernel"), "hardware_columns"),
    _Rows(("program", "stage", "kernel"), "stage_columns"),
    # Behind the columns lie the rows of the pooled stages.
    _Rows(("program", "whole", "kernel"), "graph_columns"),
    _Rows(("hardware", "layer", "kernel"), "hardware_columns"),
)


def unread_columns(stored: Vocabulary) -> list[str]:
    """Returns the columns that a checkpoint reads and this version does not compute."""
    return [
        f"{vocabulary}: {name}"
        for vocabulary, names in stored.items()
        if vocabulary.endswith("_columns")
        for name in names
        if name not in VOCABULARY[vocabulary]
    ]


def stored_shapes(like: dict[str, Any], stored: Vocabulary) -> dict[str, Any]:
    """Returns the shapes that parameters had under another vocabulary.

    Args:
        like: Nested dicts of shapes under this version's.
        stored: The other one.
    """

    def resize(rows: _Rows, leaf: Any) -> Any:
        members, count, *rest = leaf.shape
        count += len(stored[rows.vocabulary]) - len(VOCABULARY[rows.vocabulary])
        return jax.ShapeDtypeStruct((members, count, *rest), leaf.dtype)

    return _with_rows_changed(like, resize)


def map_rows(parameters: dict[str, Any], stored: Vocabulary) -> dict[str, Any]:
    """Brings the rows of parameters from another vocabulary's order to this version's.

    Args:
        parameters: Nested dicts of arrays.
        stored: The vocabulary that they are of.
    """

    def move(rows: _Rows, array: Float[Array, "member row width"]) -> Array:
        names = stored[rows.vocabulary]
        if tuple(names) == tuple(VOCABULARY[rows.vocabulary]):
            return array
        place = {name: at for at, name in enumerate(names)}
        default = place.get(rows.default or "", -1)
        index = jnp.array([place.get(name, default) for name in VOCABULARY[rows.vocabulary]])
        moved = jnp.where(index[:, None] < 0, 0, array[:, index])
        return jnp.concatenate([moved, array[:, len(names) :]], axis=1)

    return _with_rows_changed(parameters, move)


def _with_rows_changed(tree: dict[str, Any], change: Any) -> dict[str, Any]:
    def visit(path: tuple[Any, ...], leaf: Any) -> Any:
        at = tuple(str(key.key) for key in path)
        rows = next((rows for rows in _NAMED_ROWS if rows.path == at), None)
        return change(rows, leaf) if rows else leaf

    return jax.tree_util.tree_map_with_path(visit, tree)


FEATURES_OF_0_1_0 = "d8e3770d23526723"
"""Hash by which cards of version 0.1.0 state the vocabulary below."""

_WORDS_OF_0_1_0 = {
    "step_kinds": "<padding> AN FU PR RE SP FSP FFSP SA CA CI CR CHR CHW RF MV TZ SC PD IN",
    "tags": """<none> <other> none unroll vectorize parallel vthread blockIdx.x threadIdx.x
        blockIdx.y threadIdx.y blockIdx.z threadIdx.z tensorize auto_unroll_max_step tensor_core
        debug_skip_region local shared global warp wmma.matrix_a wmma.matrix_b wmma.accumulator
        cooperative_fetch auto_tensorize double_buffer_scope software_pipeline_stage
        software_pipeline_order Blockize DecomposeReduction DecomposePadding TransformLayout
        TransformBlockLayout RollingBuffer""",
    "step_columns": """extent factor_product part_0 part_1 part_2 part_3 part_4 outer_product
        inner_product number other_number innermost_0 innermost_1 innermost_2 innermost_3
        innermost_4 traffic_512 traffic_4096 traffic_32768 traffic_262144 traffic_2097152
        traffic_16777216 body_writes body_reads parallel_tasks vector_lanes threads unrolled
        unrolled_writes unrolled_reads attached_runs attached_elements repeats position from_inside
        depth divisible lane_multiple reduction known readers innermost_0_reduction
        innermost_1_reduction innermost_2_reduction innermost_3_reduction innermost_4_reduction
        innermost_stride_0 innermost_stride_1 innermost_stride_more innermost_gathers unrolled_body
        inlined_selects balance_2 balance_4 balance_8 balance_16 balance_32 balance_64""",
    "stage_columns": """placeholder compute element_bytes log_output_elements axes reduction_axes
        reads log_points log_spatial_0 log_spatial_1 log_spatial_2 log_spatial_3 log_spatial_4
        log_spatial_5 log_reduction_0 log_reduction_1 log_reduction_2 log_reduction_3
        operations_add operations_multiply operations_divide operations_compare operations_select
        operations_special operations_integer
        read_0_log_elements read_0_affine read_0_last_spatial_stride
        read_0_last_reduction_stride read_0_reused_axes
        read_1_log_elements read_1_affine read_1_last_spatial_stride
        read_1_last_reduction_stride read_1_reused_axes
        read_2_log_elements read_2_affine read_2_last_spatial_stride
        read_2_last_reduction_stride read_2_reused_axes
        read_3_log_elements read_3_affine read_3_last_spatial_stride
        read_3_last_reduction_stride read_3_reused_axes""",
    "graph_columns": """shape_only stages log_flop key_number_0 key_number_1 key_number_2
        key_number_3 key_number_4 key_number_5 key_number_6 key_number_7 key_number_8 key_number_9
        key_number_10 key_number_11 key_number_12 key_number_13 key_number_14 key_number_15
        key_number_16 key_number_17 key_number_18 key_number_19 key_number_20 key_number_21
        key_number_22 key_number_23""",
    "hardware_columns": """is_cpu is_gpu cores vector_bits clock_ghz l1_kib l2_kib l3_kib
        memory_gb_per_s shared_memory_kib threads_per_block peak_gflops""",
}
VOCABULARY_OF_0_1_0: Vocabulary = {
    vocabulary: tuple(words.split()) for vocabulary, words in _WORDS_OF_0_1_0.items()
}
"""Names of version 0.1.0, whose cards do not list them. Never changes."""
