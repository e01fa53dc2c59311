"""Which task of a network is tuned next."""

import math

from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.search.task_scheduler import (
    GradientConfig,
    TaskProgress,
    network_latency,
    next_task,
)

CONFIG = GradientConfig()
latencies = st.floats(1e-6, 1.0)
histories = st.lists(latencies, min_size=1, max_size=6).map(
    lambda found: tuple(min(found[: at + 1]) for at in range(len(found)))
)
tasks = st.builds(
    TaskProgress,
    weight=st.integers(1, 9),
    flop=st.floats(1.0, 1e10),
    kind=st.sampled_from(["", "conv_40", "dense_38"]),
    history=histories,
)


@given(st.lists(tasks, min_size=1, max_size=6), st.integers(0, 5))
def test_every_task_gets_a_first_round(found, at):
    fresh = TaskProgress(1.0, 1.0, "")
    found.insert(at, fresh)
    assert next_task(found, CONFIG) == found.index(fresh)


@given(st.lists(tasks, min_size=2, max_size=6))
def test_the_choice_does_not_depend_on_the_unit_of_time(found):
    slower = [
        TaskProgress(
            task.weight,
            task.flop,
            task.kind,
            tuple(1024 * latency for latency in task.history),
        )
        for task in found
    ]
    assert next_task(found, CONFIG) == next_task(slower, CONFIG)


def test_weight_latency_and_past_gains_attract():
    plain = TaskProgress(1, 1e9, "", (1.0, 1.0, 1.0, 1.0))
    heavy = TaskProgress(3, 1e9, "", (1.0, 1.0, 1.0, 1.0))
    slow = TaskProgress(1, 1e9, "", (2.0, 2.0, 2.0, 2.0))
    falling = TaskProgress(1, 1e9, "", (4.0, 3.0, 2.0, 1.0))
    for better in (heavy, slow, falling):
        assert next_task([plain, better], CONFIG) == 1
        assert next_task([better, plain], CONFIG) == 0


def test_a_task_far_below_its_likes_attracts():
    fast = TaskProgress(1, 1e9, "conv_40", (0.01,) * 50)
    lame = TaskProgress(1, 1e9, "conv_40", (0.1,) * 50)
    other = TaskProgress(1, 1e9, "", (0.1,) * 50)
    assert next_task([fast, other, lame], CONFIG) == 2


def test_what_is_exhausted_or_never_succeeded_is_left_alone():
    exhausted = TaskProgress(9, 1e9, "", (1.0,), exhausted=True)
    failing = TaskProgress(9, 1e9, "", (math.inf,))
    assert next_task([exhausted, failing], CONFIG) is None
    assert next_task([exhausted, failing, TaskProgress(1, 1.0, "", (1e-6,))], CONFIG) == 2
    assert network_latency([TaskProgress(2, 1.0, "", (3.0,)), exhausted]) == 15
