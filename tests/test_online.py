"""A schedule is ranked once, however often a search asks about it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwm_jax.errors import RecordError
from cwm_jax.ranking.online import KnownScores
from cwm_jax.ranking.scorer import Scores
from cwm_jax.records.steps import Step


def schedule(number: int):
    return (Step("SP", (2, 0, 64, (number,), 1)),)


def rank_of(schedules):
    numbers = np.array([found[0].fields[3][0] for found in schedules], np.float32)
    wide = numbers[:, None] * np.arange(1, 4, dtype=np.float32)
    return Scores(numbers, wide, 2 * wide, 3 * wide)


@given(st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=12), min_size=1, max_size=6))
def test_scores_are_those_of_the_model_and_each_is_asked_for_once(calls):
    asked = []

    def rank(schedules):
        asked.extend(schedules)
        return rank_of(schedules)

    known = KnownScores()
    for numbers in calls:
        schedules = [schedule(number) for number in numbers]
        for array, expected in zip(known.of(schedules, rank), rank_of(schedules), strict=True):
            np.testing.assert_array_equal(array, expected)
    assert len(asked) == len(set(asked)) == len(known)


def test_what_is_refused_stays_unknown():
    refused = True

    def rank(schedules):
        if refused and len(schedules) > 1:
            raise RecordError("no such stage")
        return rank_of(schedules)

    known = KnownScores()
    known.of([schedule(1)], rank)
    with pytest.raises(RecordError):
        known.of([schedule(1), schedule(2), schedule(3)], rank)
    assert len(known) == 1
    refused = False
    found = known.of([schedule(3), schedule(1), schedule(2)], rank)
    assert found.score.tolist() == [3, 1, 2]
