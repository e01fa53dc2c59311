"""Tasks of MetaSchedule's search, and candidates sampled from their design spaces."""

from typing import Any, NamedTuple

from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.steps import Step
from cwm_jax.tuning.metaschedule.targets import create_module
from cwm_jax.tvm_bridge.metaschedule.builder import load_intrinsics
from cwm_jax.tvm_bridge.metaschedule.tir import graph_of_module
from cwm_jax.tvm_bridge.metaschedule.traces import steps_of_candidates
from cwm_jax.workloads.parse import parse_workload


class Task(NamedTuple):
    """What a search works on."""

    module: Any
    graph: ComputeGraph
    context: Any
    spaces: list[Any]

    def sample(self, tvm: Any, count: int, *, verified: bool = True) -> list[Any]:
        """Draws schedules at random, as the first population of a search; some fail."""
        found = []
        for at in range(count):
            schedule = tvm.s_tir.Schedule(self.module, seed=at + 1)
            trace = self.spaces[at % len(self.spaces)].trace
            fresh = tvm.s_tir.schedule.Trace(trace.insts, {})
            fresh.apply_to_schedule(schedule, remove_postproc=True)
            if verified:
                schedule.enter_postproc()
                if not all(post.apply(schedule) for post in self.context.space_generator.postprocs):
                    continue
            found.append(schedule)
        return found

    def candidates(self, tvm: Any, count: int, *, verified: bool = True) -> list[Any]:
        """Returns sampled schedules as a search hands them to a cost model."""
        ms = tvm.s_tir.meta_schedule
        arguments_of = ms.arg_info.ArgInfo.from_entry_func
        return [
            ms.MeasureCandidate(schedule, arguments_of(schedule.mod, remove_preproc=True))
            for schedule in self.sample(tvm, count, verified=verified)
        ]

    def steps(self, tvm: Any, candidates: list[Any]) -> list[tuple[Step, ...]]:
        """Returns the steps of candidates."""
        return steps_of_candidates(tvm, candidates, self.graph)


def make_task(tvm: Any, target: Any, workload: Any, rules: str | None = None) -> Task:
    """Returns the task of a workload, as `cwm tune` takes it, or of a module.

    Args:
        tvm: A TVM with MetaSchedule.
        target: What for.
        workload: Text or `IRModule`.
        rules: Name of TVM's set of rules, by default those that it picks for the target.
    """
    from cwm_jax.tvm_bridge.metaschedule.cost_model import workload_key

    load_intrinsics()
    ms = tvm.s_tir.meta_schedule
    is_text = isinstance(workload, str)
    module = create_module(tvm, parse_workload(workload), target) if is_text else workload
    space = (
        ms.space_generator.PostOrderApply(sch_rules=rules, postprocs=rules, mutator_probs=rules)
        if rules
        else "post-order-apply"
    )
    context = ms.TuneContext(mod=module, target=target, space_generator=space, task_name="main")
    graph = graph_of_module(tvm, module, workload_key(module))
    return Task(module, graph, context, list(context.generate_design_space()))
