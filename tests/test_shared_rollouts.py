"""Schedules that begin alike share a rollout, and are ranked as if they did not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import schedules
from test_steps import SHAPE_ONLY, matmul

from cwm_jax.features.batch import StepArrays, encode_schedules
from cwm_jax.features.graph import encode_graph
from cwm_jax.features.hardware import encode_hardware, load_hardware
from cwm_jax.model.config import ModelConfig
from cwm_jax.model.segments import SEGMENT
from cwm_jax.model.world_model import create_ensemble
from cwm_jax.ranking.scorer import Ranker, Scorer
from cwm_jax.ranking.shared_rollouts import SharedRollouts, _fingerprints, plan_segments
from cwm_jax.records.record import Record, TaskDetails
from cwm_jax.records.steps import Step

CONFIG = ModelConfig(latent_width=16, action_width=16, hardware_width=4, head_width=16, members=2)
CARD = load_hardware("cpu-x86-2core")
HARDWARE = encode_hardware(CARD)
ENSEMBLE = create_ensemble(CONFIG, seed=0)
PROGRAMS = (SHAPE_ONLY, matmul(64, 96, 32))
PLAIN = Ranker(ENSEMBLE)
SHARED = SharedRollouts(ENSEMBLE.graphdef, ENSEMBLE.state)


def beginnings(steps: StepArrays) -> list[int]:
    """How many distinct beginnings each segment has, by comparing the arrays."""
    counts = []
    for stop in range(SEGMENT, steps.kind.shape[1] + 1, SEGMENT):
        seen = set()
        for row, length in enumerate(steps.length):
            end = min(stop, int(length))
            parts = (steps.kind, steps.tag, steps.stage, steps.other, steps.values)
            seen.add((end, *(part[row, :end].tobytes() for part in parts)))
        counts.append(len(seen))
    return counts


def history(stems: list, tails: list) -> list[tuple[Step, ...]]:
    """Every stem with every tail, and by itself."""
    return [(*stem, *tail) for stem in stems for tail in [(), *tails]]


several = st.lists(schedules(max_size=20), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(several, several, st.sampled_from(PROGRAMS))
def test_sharing_changes_no_score(stems, tails, graph):
    steps = encode_schedules(history(stems, tails), graph)
    encoded = encode_graph(graph, steps.slots)
    prints = _fingerprints(steps)
    assert [len(set(column)) for column in prints.T.tolist()] == beginnings(steps)
    plan = plan_segments(prints)
    expected = PLAIN(encoded, steps, HARDWARE)
    found = SHARED.rank(encoded, steps, plan, HARDWARE)
    for name in expected._fields:
        np.testing.assert_allclose(
            np.asarray(getattr(found, name)), getattr(expected, name), rtol=1e-4, atol=1e-5
        )


def descendants(count: int) -> list[tuple[Step, ...]]:
    """Schedules of 24 steps whose first 20 are one of four beginnings."""
    return [
        (
            *(Step("SP", (2, 0, 64, (2 + row % 4,), 1)) for _ in range(10)),
            *(Step("AN", (2, at % 3, 2)) for at in range(10)),
            *(Step("SP", (2, 1, 96, (1 + row // 4,), 1)) for _ in range(4)),
        )
        for row in range(count)
    ]


def test_only_distinct_beginnings_are_rolled_out():
    steps = encode_schedules(descendants(600), PROGRAMS[1])
    plan = plan_segments(_fingerprints(steps))
    # The first two segments are of one size, so they are rolled out as one.
    assert [segment.steps for segment in plan.segments] == [slice(0, 16), slice(16, 24)]
    assert [len(segment.candidate) for segment in plan.segments] == [4, 600]
    assert plan.work == 16 * 256 + 8 * 768
    first, last = plan.segments
    assert (first.parent == 0).all()
    came_from = first.candidate[last.parent][plan.ended]
    assert (came_from % 4 == np.arange(600) % 4).all()


def test_ending_in_the_middle_of_a_segment():
    """Schedules that are a beginning of others, among more than one padded size."""
    batch = [steps[: 24 if row % 2 else 12] for row, steps in enumerate(descendants(1200))]
    steps = encode_schedules(batch, PROGRAMS[1])
    encoded = encode_graph(PROGRAMS[1], steps.slots)
    plan = plan_segments(_fingerprints(steps))
    assert len(plan.segments) == 2
    found = SHARED.rank(encoded, steps, plan, HARDWARE)
    np.testing.assert_allclose(
        np.asarray(found.score), PLAIN(encoded, steps, HARDWARE).score, rtol=1e-4, atol=1e-5
    )


def test_a_stage_that_goes_on_is_another_beginning():
    """A stage is summed up on its last step, so what follows changes what a beginning means."""
    split = Step("SP", (2, 0, 64, (8,), 1))
    stem = (split, Step("AN", (2, 1, 2)))
    steps = encode_schedules(
        [stem, (*stem, Step("PR", (2, 0, "auto_unroll_max_step$64")))], PROGRAMS[1]
    )
    assert (steps.values[0, 1] != steps.values[1, 1]).any()
    assert len(plan_segments(_fingerprints(steps)).segments[0].candidate) == 2


@pytest.mark.parametrize("alike", [True, False])
def test_a_log_is_shared_where_it_pays(monkeypatch, alike):
    """Of a search's records, as `cwm score` reads them."""
    batch = descendants(900) if alike else strangers(2000)
    scorer = Scorer(ENSEMBLE, CARD)
    expected = scorer.rank_schedules(PROGRAMS[1], batch).score
    ranked = []
    rank = SharedRollouts.rank
    monkeypatch.setattr(SharedRollouts, "rank", lambda *given: ranked.append(given) or rank(*given))
    key = PROGRAMS[1].workload_key
    records = [
        Record(key, "llvm", TaskDetails(None, ()), steps, (1e-3,), 0, 0.0, 0, "v0.6")
        for steps in batch
    ]
    found = scorer.score(records, {key: PROGRAMS[1]})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert len(ranked) == alike


def strangers(count: int) -> list[tuple[Step, ...]]:
    """Schedules that differ from the first step on."""
    rest = tuple(Step("AN", (2, 0, 2)) for _ in range(18))
    return [(Step("SP", (2, 0, 64, (1 + row,), 1)), *rest) for row in range(count)]
