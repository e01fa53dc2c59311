"""Fixtures: the TVM with MetaSchedule, which needs a process without the one that has Ansor."""

import warnings
from collections.abc import Callable, Iterator

import pytest
from support.tasks import Task, make_task

from cwm_jax.tuning.metaschedule.targets import host_target
from cwm_jax.tvm_bridge.metaschedule.graphs import UnreadWarning
from cwm_jax.tvm_bridge.runtime import use


@pytest.fixture(autouse=True)
def _failures_in_ranking_fail() -> Iterator[None]:
    """A search goes on where ranking fails, with a warning; a test should not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* cannot be ranked", UnreadWarning)
        yield


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
    """Workload -> task on this machine's CPU."""
    known: dict[str, Task] = {}

    def create(text: str) -> Task:
        if text not in known:
            known[text] = make_task(tvm, target, text)
        return known[text]

    return create
