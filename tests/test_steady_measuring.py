"""Candidates count from runs between two references that agree, scaled by what these say."""

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.errors import CorpusError
from cwm_jax.tvm_bridge.measuring import MeasureConfig, SteadyMeasurer
from cwm_jax.tvm_bridge.reference import ReferenceRun, group_scales, level_of

LEVEL = 1e-3
AT_LEVEL = [ReferenceRun(0.0, LEVEL, (LEVEL, LEVEL), accepted=True, kept=1)]


class SharedMachine:
    """A device whose speed changes from run to run; every program takes LEVEL at full speed.

    Args:
        slowness: Of one run after the other; the last one lasts.
    """

    reference = "reference"

    def __init__(self, slowness: Sequence[float]) -> None:
        self._slowness = itertools.chain(slowness, itertools.repeat(slowness[-1]))
        self.discarded: list[str] = []

    def build(self, inputs: Sequence[str]) -> list[str]:
        return list(inputs)

    def failure(self, built: str) -> str:
        return ""

    def run(self, inputs: Sequence[str], built: Sequence[str]) -> list[float]:
        assert list(inputs) == list(built)
        return [LEVEL * next(self._slowness) for _ in inputs]

    def latency(self, result: float) -> float:
        return result

    def scaled(self, result: float, factor: float) -> float:
        return result * factor

    def discard(self, built: str) -> None:
        self.discarded.append(built)


@given(
    st.lists(st.sampled_from([1.0, 1.4, 1.8]), min_size=1, max_size=60),
    st.integers(1, 9),
    st.integers(1, 4),
)
def test_every_candidate_counts_once_however_fast_the_machine_was(noise, count, every):
    device = SharedMachine([*noise, 1.4])
    config = MeasureConfig(reference_every=every, attempts=100)
    found = SteadyMeasurer(device, config, AT_LEVEL, lambda _: None)
    results = found.measure([f"candidate {at}" for at in range(count)])
    assert len(results) == count
    assert sorted(device.discarded) == [f"candidate {at}" for at in range(count)]
    assert sum(run.kept for run in found.history[1:]) >= -(-count // every)
    assert found.history[-1].accepted


def test_what_ran_while_the_speed_changed_runs_again_and_the_rest_is_scaled():
    # Reference, candidate, reference and so on: the speed changes beside the second candidate.
    device = SharedMachine([1.0, 1.1, 1.0, 1.2, 1.5, 1.8, 1.5, 2.0, 2.4, 2.0])
    steady = SteadyMeasurer(device, MeasureConfig(reference_every=1), AT_LEVEL, lambda _: None)
    results = steady.measure(["a", "b", "c"])
    assert results == pytest.approx([1.1 * LEVEL, 1.2 * LEVEL, 1.2 * LEVEL])
    assert [(run.accepted, run.kept) for run in steady.history[1:]] == [(False, 2), (True, 1)]


def test_a_machine_that_is_never_steady_is_given_up_after_longer_and_longer_waits():
    waits: list[float] = []
    device = SharedMachine([1.5, 1.0, 2.0, 1.7, 1.0, 2.5, 1.6, 1.0, 1.9, 2.2, 1.0, 1.4])
    config = MeasureConfig(reference_every=1, attempts=4)
    steady = SteadyMeasurer(device, config, AT_LEVEL, waits.append)
    with pytest.raises(CorpusError, match=r"not steady.*took 2\.200, 1\.400 ms.*within 5%"):
        steady.measure(["a"])
    assert waits == [2.0, 4.0, 8.0, 16.0]
    assert device.discarded == ["a"]


def test_a_corpus_is_scaled_to_its_first_run_for_good():
    # The faster quarter of the first run's references is what it is scaled to.
    device = SharedMachine([1.2, 1.2, 1.2, 1.0, 1.0, 1.5, 1.5, 1.5, 1.5, 2.0])
    steady = SteadyMeasurer(device, MeasureConfig(reference_every=1), (), lambda _: None)
    steady.measure(["a", "b", "c", "d"])
    assert steady.history[0].level == pytest.approx(1.2 * LEVEL)
    assert steady.measure(["e"]) == pytest.approx([1.2 * LEVEL])
    assert {run.level for run in steady.history} == {steady.history[0].level}


@given(st.lists(st.floats(0.5, 2.0), min_size=2, max_size=8))
def test_groups_are_scaled_between_references_that_agree(factors):
    latencies = [LEVEL * factor for factor in factors]
    scales = group_scales(latencies, LEVEL, 0.05)
    for (before, after), scale in zip(itertools.pairwise(factors), scales, strict=True):
        assert (scale is not None) == (abs(after / before - 1) <= 0.05)
        if scale is not None:
            assert scale == pytest.approx(2 / (before + after))


@pytest.mark.parametrize("latencies", [(math.inf, math.inf), (LEVEL, math.inf), (math.inf, LEVEL)])
def test_a_failed_reference_keeps_nothing(latencies):
    assert group_scales(latencies, LEVEL, 0.05) == [None]


@given(st.lists(st.floats(1e-4, 1e-2), min_size=2, max_size=9))
def test_the_level_is_the_first_one(latencies):
    assert level_of(AT_LEVEL, latencies) == LEVEL
    assert sum(latency <= level_of((), latencies) for latency in latencies) >= 1
    assert level_of((), latencies) <= sorted(latencies)[len(latencies) // 2]
