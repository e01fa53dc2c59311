"""When a batch counts as measured on a quiet machine."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.tvm_bridge.reference import ReferenceRun, judge_reference, reference_level

LEVEL = 2e-3


def judge(history: list[ReferenceRun], *latencies: float) -> ReferenceRun:
    return judge_reference(history, latencies, tolerance=0.05, window=6, time=0.0)


def after(*batches: tuple[float, ...]) -> list[ReferenceRun]:
    history: list[ReferenceRun] = []
    for batch in batches:
        history.append(judge(history, *batch))
    return history


@given(st.lists(st.floats(0.97, 1.03), min_size=2, max_size=5))
def test_a_quiet_machine_is_accepted(factors):
    history = after((LEVEL, LEVEL), tuple(LEVEL * factor for factor in factors))
    assert [run.accepted for run in history] == [True, True]


@given(st.floats(1.13, 10.0))
def test_one_slow_reference_refuses_the_batch(factor):
    history = after((LEVEL, LEVEL), (LEVEL, LEVEL * factor, LEVEL))
    assert not history[-1].accepted
    assert reference_level(history, 6) == LEVEL


@given(st.floats(1.06, 10.0))
def test_a_slow_median_refuses_the_batch(factor):
    assert not after((LEVEL, LEVEL), (LEVEL, LEVEL * factor, LEVEL * factor))[-1].accepted


def test_a_failed_reference_refuses_the_batch():
    assert not after((LEVEL, math.inf))[-1].accepted
    assert not after((LEVEL, LEVEL), (math.inf, math.inf))[-1].accepted


def test_an_unsteady_start_sets_no_level():
    history = after((LEVEL, 2 * LEVEL))
    assert not history[0].accepted
    assert reference_level(history, 6) is None


def test_the_machine_may_settle_at_another_level_after_three_agreeing_attempts():
    slow = (1.5 * LEVEL, 1.5 * LEVEL)
    history = after((LEVEL, LEVEL), slow, slow, slow)
    assert [run.accepted for run in history] == [True, False, False, True]
    assert history[-1].moved
    assert reference_level(history, 6) == pytest.approx(1.5 * LEVEL)
    assert judge(history, *slow).accepted
    assert not judge(history, LEVEL, LEVEL).accepted


def test_attempts_that_disagree_set_no_level():
    history = after((LEVEL,), (1.5 * LEVEL,), (2.5 * LEVEL,), (1.5 * LEVEL,))
    assert [run.accepted for run in history] == [True, False, False, False]
