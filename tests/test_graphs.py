"""Compute graphs as data: exact for known operators, and the same after a round trip."""

import gzip
import random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.errors import GraphError
from cwm_jax.features.graph import STAGE_COLUMNS, encode_graph
from cwm_jax.records.graph import (
    OPERATION_KINDS,
    Axis,
    BufferRead,
    Fold,
    add_graphs,
    graph_from_json,
    graph_to_json,
    graphs_beside,
    read_graphs,
    shape_only_graph,
    write_graphs,
)
from cwm_jax.tuning.ansor.tasks import create_task
from cwm_jax.tvm_bridge.ansor.graphs import graph_of_task
from cwm_jax.tvm_bridge.expressions import digits_of_index
from cwm_jax.workloads.parse import OPERATORS, parse_workload


def graph_of(tvm, text: str):
    return graph_of_task(tvm, create_task(tvm, parse_workload(text), "llvm -num-cores=2"))


def operations(stage) -> dict[str, int]:
    return {k: n for k, n in zip(OPERATION_KINDS, stage.operations, strict=True) if n}


def test_matmul(tvm):
    graph = graph_of(tvm, "matmul:8,16,32")
    left, right, out = graph.stages
    assert (left.kind, left.shape, right.shape) == ("placeholder", (8, 32), (32, 16))
    assert out.axes == (Axis("i", 8, False), Axis("j", 16, False), Axis("k", 32, True))
    assert out.reads == (BufferRead(0, (32, 0, 1), True), BufferRead(1, (0, 1, 16), True))
    assert operations(out) == {"add": 1, "multiply": 1}
    assert graph.flop == 2 * 8 * 16 * 32


def test_conv2d_strides_and_padding(tvm):
    stages = {stage.name: stage for stage in graph_of(tvm, "conv2d:1,8,8,4,6,3,2,1").stages}
    out = stages["conv2d_nhwc"]
    assert [axis.extent for axis in out.axes] == [1, 4, 4, 6, 3, 3, 4]
    image, weight = out.reads
    # The padded image is 10 x 10 x 4 and the convolution moves by two.
    assert image.strides == (400, 80, 8, 0, 40, 4, 1)
    assert weight.strides == (0, 0, 0, 1, 72, 24, 6)
    padded = stages["pad_temp"]
    assert operations(padded)["select"] == 1
    assert operations(padded)["compare"] > 0
    assert padded.reads[0].affine


def test_a_grouped_convolution_folds_at_its_groups(tvm):
    """Output channel f reads the input channels from `f // 4 * 4` on."""
    stages = graph_of(tvm, "group_conv2d:1,8,8,16,16,3,1,1,4").stages
    out = next(stage for stage in stages if len(stage.reads) == 2 and stage.name != "pad_temp")
    image = out.reads[0]
    channel = next(at for at, axis in enumerate(out.axes) if axis.extent == 16)
    assert not image.affine
    assert image.known
    assert [fold.axis for fold in image.folds] == [channel]
    assert image.folds[0].period == 4


def test_programs_that_are_added_replace_no_others(tmp_path):
    path = tmp_path / "log.programs.jsonl"
    one, other = shape_only_graph("one"), shape_only_graph("other")
    add_graphs([one], path)
    add_graphs([other, one], path)
    assert [*read_graphs(path)] == ["one", "other"]
    packed = tmp_path / "packed.programs.jsonl.gz"
    write_graphs([one], packed)
    add_graphs([other], tmp_path / "packed.programs.jsonl")
    assert [*read_graphs(packed)] == ["one", "other"]
    assert not (tmp_path / "packed.programs.jsonl").exists()
    path.write_text("my own notes\n")
    with pytest.raises(GraphError, match=r"log\.programs\.jsonl:1: not a serialised program"):
        add_graphs([one], path)
    assert path.read_text() == "my own notes\n"


@given(st.integers(1, 5), st.integers(2, 5), st.integers(2, 40))
def test_digits_are_found(inner, period, extent):
    """`c // period * 100 + c % period * inner`, and an axis that does not fold."""
    found = digits_of_index(
        lambda values: values[0] // period * 100 + values[0] % period * inner + 7 * values[1],
        (extent, 3),
    )
    folds = (Fold(0, period, 100),) if extent > period else ()
    assert found == ((inner, 7), folds)


def test_an_index_that_mixes_axes_is_unknown():
    assert digits_of_index(lambda values: (values[0] + values[1]) // 3, (9, 9)) is None
    assert digits_of_index(lambda values: values[0] ** 2, (9,)) is None


def test_softmax_has_its_special_functions(tvm):
    stages = graph_of(tvm, "softmax:64,128").stages
    kinds = [operations(stage) for stage in stages]
    assert any("special" in kind for kind in kinds)
    assert any("divide" in kind for kind in kinds)
    assert any("compare" in kind for kind in kinds)


@pytest.mark.parametrize("name", OPERATORS)
def test_stage_order_is_ansors_and_the_form_survives(tvm, name, tmp_path):
    task = create_task(tvm, parse_workload(OPERATORS[name].example), "llvm -num-cores=2")
    graph = graph_of_task(tvm, task)
    stages = task.compute_dag.get_init_state().stages
    assert [stage.name for stage in graph.stages] == [str(stage.op.name) for stage in stages]
    for stage, ansor in zip(graph.stages, stages, strict=True):
        # Ansor gives placeholders the loops of their shape, which no step addresses.
        if stage.kind == "compute":
            extents = [int(loop.range.extent) for loop in ansor.iters]
            assert [axis.extent for axis in stage.axes] == extents
    assert graph_from_json(graph_to_json(graph)) == graph
    for ending in (".jsonl", ".jsonl.gz"):
        path = tmp_path / f"log.programs{ending}"
        write_graphs([graph], path)
        assert read_graphs(path) == {graph.workload_key: graph}
        assert graphs_beside(tmp_path / "log.jsonl.gz") is not None


def test_encoding_names_its_columns(tvm):
    encoded = encode_graph(graph_of(tvm, "matmul:8,16,32"), 8)
    row = dict(zip(STAGE_COLUMNS, encoded.stages[2].tolist(), strict=True))
    assert row["compute"] == 1
    assert row["log_spatial_0"] * 8 == pytest.approx(4.0875, abs=1e-3)  # log2(1 + 16)
    assert row["log_reduction_0"] * 8 == pytest.approx(5.0444, abs=1e-3)
    assert encoded.present.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert encoded.reads[2].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_shape_only_programs_tell_their_shapes_apart():
    first, second = (encode_graph(shape_only_graph(f'["f", {n}]'), 8) for n in (8, 16))
    assert first.whole.tolist() != second.whole.tolist()
    assert first.present.sum() == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not a serialised program"),
        ("[]", "not a serialised program"),
        ('{"format": 99}', "format 99, expected 1"),
        ('{"format": 1, "workload_key": "k", "stages": [{}], "flop": 1}', "not a serialised"),
    ],
)
def test_malformed_programs_are_named(line, says, tmp_path):
    path = tmp_path / "log.programs.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(GraphError, match=f"log.programs.jsonl:1: .*{says}"):
        read_graphs(path)


def test_damaged_programs_file_is_an_error(tmp_path):
    path = tmp_path / "log.programs.jsonl.gz"
    content = bytearray(gzip.compress(random.Random(0).randbytes(4096).hex().encode()))
    content[2000:2100] = bytes(100)
    for damaged in (content, b"\x1f\x8b", gzip.compress(b"[]" * (1 << 22))):
        path.write_bytes(damaged)
        with pytest.raises(GraphError, match=r"cannot be read|longer than"):
            read_graphs(path)


def test_reads_must_point_at_stages(tvm):
    line = graph_to_json(graph_of(tvm, "matmul:8,16,32"))
    with pytest.raises(GraphError, match="reads stage 9"):
        graph_from_json(line.replace(b'"producer":1', b'"producer":9'))


@given(st.binary(max_size=100))
def test_any_bytes_give_a_program_error(line):
    with pytest.raises(GraphError):
        graph_from_json(line)


@pytest.mark.parametrize("step", [["XX", 0], ["FU", 0], [], "FU", None])
def test_initial_steps_that_are_none_are_refused(step):
    line = orjson.loads(graph_to_json(shape_only_graph("key"))) | {"initial_steps": [step]}
    with pytest.raises(GraphError, match="log:3: not a serialised program"):
        graph_from_json(orjson.dumps(line), "log:3")
