"""Candidates count from runs between two references that agree, scaled by what these say."""

import itertools
import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.errors import CorpusError, RecordError, TargetError
from cwm_jax.tuning.measurement import (
    MeasureConfig,
    SteadyMeasurer,
    TuningConfig,
    check_reference,
    kept_in,
    reference_path,
)
from cwm_jax.tuning.reference import ReferenceRun, group_scales, level_of, read_reference

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


def test_where_it_need_not_insist_the_last_attempt_counts_as_its_references_say():
    device = SharedMachine([1.5, 1.0, 2.0, 1.7, 1.0, 2.5])
    config = MeasureConfig(reference_every=1, attempts=2, insist=False)
    steady = SteadyMeasurer(device, config, AT_LEVEL, lambda _: None)
    assert steady.measure(["a"]) == pytest.approx([LEVEL * 1.0 / 2.1])
    assert [run.accepted for run in steady.history[1:]] == [False, False]


def test_a_program_without_a_reference_around_it_counts_as_it_is():
    device = SharedMachine([math.inf, 1.3, 1.0])
    config = MeasureConfig(reference_every=1, attempts=1, insist=False)
    steady = SteadyMeasurer(device, config, AT_LEVEL, lambda _: None)
    assert steady.measure(["a"]) == pytest.approx([1.3 * LEVEL])


def test_runs_of_the_reference_are_kept_in_a_file_and_gone_on_with(tmp_path):
    file = tmp_path / "log.reference.jsonl"
    config = MeasureConfig(reference_every=1)
    kept_in(file, SharedMachine([1.1, 1.0, 1.1]), config).measure(["a"])
    again = kept_in(file, SharedMachine([2.2, 2.0, 2.2]), config)
    assert again.measure(["a"]) == pytest.approx([1.0 * LEVEL])
    assert [run.latencies for run in read_reference(file)] == [
        pytest.approx((factor * LEVEL, factor * LEVEL)) for factor in (1.1, 2.2)
    ]


@pytest.mark.parametrize("before", [False, True])
def test_a_search_goes_on_only_as_it_was_measured(before, tmp_path):
    log = tmp_path / "log.jsonl"
    log.touch()
    if before:
        reference_path(log).touch()
    device = SimpleNamespace(kind=SimpleNamespace(name="llvm"))

    def check(every: int | None) -> None:
        settings = TuningConfig(trials=1, reference_every=every)
        check_reference(settings, log, reference_path(log), device)

    check(1 if before else None)
    with pytest.raises(RecordError, match=r"cannot resume.*(add|leave out) --reference-every"):
        check(None if before else 1)


@pytest.mark.parametrize(("kind", "remote"), [("cuda", False), ("llvm", True)])
def test_the_reference_runs_on_this_cpu_only(kind, remote, tmp_path):
    settings = TuningConfig(trials=1, reference_every=1)
    device = SimpleNamespace(kind=SimpleNamespace(name=kind))
    log = tmp_path / "log.jsonl"
    with pytest.raises(TargetError, match="this machine's CPU"):
        check_reference(settings, log, reference_path(log), device, remote=remote)


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
