"""The loops that a schedule ends with, by TVM."""

from typing import Any

from support.final_loops import Loops

_KINDS = {0: "serial", 1: "parallel", 2: "vectorize", 3: "unroll"}


def tvm_loops(tvm: Any, task: Any, schedule: Any) -> dict[str, Loops]:
    """Returns the loops around each block, its host's included.

    Of the postprocessors only the one that fuses, parallelises and vectorises is run: the others
    split blocks in two.
    """
    post = tvm.s_tir.meta_schedule.postproc.RewriteParallelVectorizeUnroll()
    post._initialize_with_tune_context(task.context)
    fresh = tvm.s_tir.Schedule(task.module)
    schedule.trace.apply_to_schedule(fresh, remove_postproc=True)
    fresh.enter_postproc()
    assert post.apply(fresh)
    found: dict[str, Loops] = {}
    for block in fresh.get_child_blocks(fresh.get_sblock("root", "main")):
        loops = [fresh.get(loop) for loop in fresh.get_loops(block)]
        found[str(fresh.get(block).name_hint)] = [
            (int(loop.extent), _KINDS[int(loop.kind)]) for loop in loops if int(loop.extent) != 1
        ]
    return found
