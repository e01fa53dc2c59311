"""The builder for users' own `tune_tir` and `tune_relax`."""

from cwm_jax.tvm_bridge.metaschedule import local_builder


def test_its_workers_build_without_importing_the_intrinsics(
    tvm, target, create_task, monkeypatch, capfd
):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # workers print what they import
    builder = local_builder(timeout=60, workers=1)
    module = create_task("matmul:32,32,32").module
    inputs = [tvm.s_tir.meta_schedule.builder.BuilderInput(module, target)]
    (built,) = builder.build(inputs)
    assert built.error_msg is None
    assert tvm.runtime.load_module(built.artifact_path)
    imported = capfd.readouterr().err
    assert "tvm.s_tir" in imported
    assert "tvm.s_tir.tensor_intrin" not in imported
