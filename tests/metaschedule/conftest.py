"""Fixtures: the TVM with MetaSchedule, which needs a process without the one that has Ansor."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from cwm_jax.records.program import Program
from cwm_jax.tvm_bridge.metaschedule_targets import create_module, host_target
from cwm_jax.tvm_bridge.runtime import use
from cwm_jax.tvm_bridge.tir_programs import program_of_module
from cwm_jax.tvm_bridge.workloads import parse_workload


class Task(NamedTuple):
    """What a search works on."""

    module: Any
    program: Program
    context: Any
    spaces: list[Any]

    def sample(self, tvm: Any, count: int, seed: int = 0) -> list[Any]:
        """Draws schedules at random, as the first population of a search; some fail."""
        found = []
        for at in range(count):
            trace = self.spaces[at % len(self.spaces)].trace
            schedule = tvm.s_tir.Schedule(self.module, seed=seed * 10_000 + at + 1)
            fresh = tvm.s_tir.schedule.Trace(trace.insts, {})
            try:
                fresh.apply_to_schedule(schedule, remove_postproc=True)
            except tvm.error.InternalError:
                continue
            schedule.enter_postproc()
            if all(post.apply(schedule) for post in self.context.space_generator.postprocs):
                found.append(schedule)
        return found


@pytest.fixture(scope="session")
def tvm():
    """The TVM that has MetaSchedule."""
    return use("metaschedule")


@pytest.fixture(scope="session")
def target(tvm):
    """This machine's CPU."""
    return host_target(tvm)


@pytest.fixture(scope="session")
def create_task(tvm, target) -> Callable[[str], Task]:
    """Workload, as `cwm tune` takes it -> task."""
    from cwm_jax.tvm_bridge.metaschedule import workload_key

    known: dict[str, Task] = {}

    def create(text: str) -> Task:
        if text not in known:
            module = create_module(tvm, parse_workload(text))
            context = tvm.s_tir.meta_schedule.TuneContext(
                mod=module, target=target, space_generator="post-order-apply", task_name="main"
            )
            program = program_of_module(tvm, module, workload_key(module))
            known[text] = Task(module, program, context, list(context.generate_design_space()))
        return known[text]

    return create
