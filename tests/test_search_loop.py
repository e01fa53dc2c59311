"""The loop of a search: it spends its trials, confirms the best, and says what happened."""

import math

import pytest

from cwm_jax.records.record import Record, TaskDetails
from cwm_jax.records.steps import Step
from cwm_jax.search.confirmation import best_record
from cwm_jax.tuning.engine import RoundResult
from cwm_jax.tuning.loop import search_in_rounds
from cwm_jax.tuning.measurement import TuningConfig


class Space:
    """Programs numbered in the order in which they are found, each with a latency."""

    def __init__(self, latencies):
        self.latencies, self.records, self.asked = latencies, [], []

    def measure(self, numbers, what):
        self.asked.append((what, list(numbers)))
        found = [self.latencies[number] for number in numbers]
        for number, latency in zip(numbers, found, strict=True):
            failed = math.isinf(latency)
            self.records.append(
                Record(
                    workload_key="key",
                    target="llvm",
                    task=TaskDetails(None, ()),
                    steps=(Step("SP", (0, 0, 64, (number,), 1)),),
                    costs=(1e10 if failed else latency,),
                    error_code=int(failed),
                    measure_seconds=0.0,
                    timestamp=0,
                    version="v0.6",
                )
            )
        error = "boom" if any(map(math.isinf, found)) else ""
        return RoundResult(tuple(found), 1.0, 2.0, 3.0, predicted=7, first_error=error)

    def round(self, count):
        done = sum(len(numbers) for what, numbers in self.asked if what == "new")
        return self.measure(range(done, min(done + count, len(self.latencies))), "new")

    def remeasure(self, records):
        return self.measure([record.steps[0].fields[3][0] for record in records], "again")

    def close(self):
        pass


def test_trials_are_spent_on_rounds_and_then_on_the_best():
    space = Space([9.0, math.inf, 3.0, 5.0, 2.0, 8.0])
    told = []
    settings = TuningConfig(trials=10, round_size=4, confirm=4)
    rounds, stopped_early = search_in_rounds(
        space, lambda: space.records, settings, [], told.append
    )
    assert space.asked == [
        ("new", [0, 1, 2, 3]),
        ("new", [4, 5]),
        ("again", [4, 2]),
        ("again", [4, 2]),
    ]
    assert rounds == told
    assert [done.trials for done in told] == [4, 6, 8, 10]
    assert [done.confirming for done in told] == [False, False, True, True]
    assert [done.best_latency for done in told] == [3.0, 2.0, 2.0, 2.0]
    assert told[0].predicted == 7
    assert (told[0].search_seconds, told[0].model_seconds, told[0].measure_seconds) == (1, 2, 3)
    assert sum(len(done.latencies) for done in rounds) == 10
    best = best_record(space.records)
    assert best is not None
    assert best.costs == (2.0, 2.0, 2.0)
    assert rounds[0].first_error == "boom"
    assert not stopped_early


@pytest.mark.parametrize("earlier", [[], [4.0, 6.0]])
def test_a_space_that_is_exhausted_ends_the_search(earlier):
    space = Space([9.0, 7.0, 3.0])
    settings = TuningConfig(trials=12, round_size=2)
    rounds, stopped_early = search_in_rounds(space, lambda: space.records, settings, earlier)
    assert [numbers for _, numbers in space.asked] == [[0, 1], [2], []]
    assert stopped_early
    assert [done.latencies for done in rounds] == [(9.0, 7.0), (3.0,)]
    assert rounds[-1].trials == len(earlier) + 3
    assert rounds[0].best_latency == min([*earlier, 7.0])


def test_a_search_that_is_done_measures_nothing():
    space = Space([1.0])
    rounds, stopped_early = search_in_rounds(
        space, lambda: space.records, TuningConfig(trials=2), [4.0, 6.0]
    )
    assert space.asked == []
    assert rounds == []
    assert not stopped_early


def test_a_search_that_goes_on_says_at_first_where():
    space = Space([9.0, 7.0])
    told = []
    settings = TuningConfig(trials=4, round_size=2)
    rounds, _ = search_in_rounds(space, lambda: space.records, settings, [8.0, 6.0], told.append)
    assert [done.trials for done in told] == [2, 4]
    assert (told[0].best_latency, told[0].latencies) == (6.0, ())
    assert rounds == told[1:]
