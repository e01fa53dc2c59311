"""The search of one program, whichever engine finds the candidates: settings, rounds, outcome."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from cwm_jax.ranking.gaussian_process import AdaptationName
from cwm_jax.records.record import Record
from cwm_jax.search.confirmation import best_record, confirm
from cwm_jax.tuning.tracker import Tracker

SearchName = Literal["evolutionary", "planner"]


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings that every engine's search has.

    Attributes:
        trials: Candidates to measure in all, those of a resumed search included.
        round_size: Candidates a round; the model learns between rounds.
        seed: Of the search.
        min_repeat_ms: One measurement repeats the program for at least so long.
        search: The engine's evolutionary search, or the planner, which needs the world model.
        adaptation: How measurements correct the world model: not at all, by the mean, or by the
            upper confidence bound.
        confirm: Trials of them that measure the best programs again, at the end
            (`cwm_jax.search.confirmation`).
        reference_every: Candidates between two runs of the reference program that says how fast
            the machine is (`cwm_jax.tuning.measurement`); None to measure without.
        tracker: Where devices to measure on are asked for; None for this machine.
        pretrain: Corpus folder that an engine's own model learns from before the search.
    """

    trials: int
    round_size: int = 16
    seed: int = 0
    min_repeat_ms: int = 40
    search: SearchName = "evolutionary"
    adaptation: AdaptationName = "bound"
    confirm: int = 0
    reference_every: int | None = None
    tracker: Tracker | None = None
    pretrain: Path | None = None


class Counts(NamedTuple):
    """How many candidates a round looked at.

    Attributes:
        predicted: Those that a model scored, where the engine tells.
        imagined: Schedules that a planner scored.
        proposed: Schedules that it handed to TVM.
        rejected: Those that TVM refused.
    """

    predicted: int = 0
    imagined: int = 0
    proposed: int = 0
    rejected: int = 0


class TaskRound(NamedTuple):
    """A round of one task.

    Attributes:
        latencies: Of what it measured in seconds, infinity for failures; empty at its end.
        seconds: Of search, model and measuring.
        first_error: What TVM said of the first failure, or "".
        counts: Of what it looked at.
    """

    latencies: Sequence[float]
    seconds: tuple[float, float, float]
    first_error: str = ""
    counts: Counts = Counts()


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round did; times are wall-clock seconds.

    Attributes:
        trials: Candidates measured so far.
        latencies: Of this round's candidates in seconds, infinity for failures.
        best_latency: Best so far in seconds.
        search_seconds: Search without the model.
        model_seconds: In the cost model.
        measure_seconds: Building and running.
        predicted: As `Counts` has it; so the next three.
        imagined: Likewise.
        proposed: Likewise.
        rejected: Likewise.
        confirming: Whether the best programs were measured again, and none was searched for.
    """

    trials: int
    latencies: tuple[float, ...]
    best_latency: float
    search_seconds: float
    model_seconds: float
    measure_seconds: float
    predicted: int = 0
    imagined: int = 0
    proposed: int = 0
    rejected: int = 0
    confirming: bool = False


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Outcome of a search.

    Attributes:
        workload_key: Names the program.
        target: TVM target.
        flop: Floating-point operations of one run, by TVM's count; 0 where unknown.
        latencies: Of every trial in order, in seconds, infinity for failures; a resumed
            search's come first.
        rounds: The rounds of this run.
        best: The fastest program (`cwm_jax.search.confirmation.best_record`), None if no trial
            succeeded.
        first_error: What TVM said of the first failed trial of this run, or "".
        stopped_early: Whether the search space ran out before the trials did.
    """

    workload_key: str
    target: str
    flop: float
    latencies: tuple[float, ...]
    rounds: tuple[Round, ...]
    best: Record | None
    first_error: str
    stopped_early: bool


class Searched(NamedTuple):
    """A program that is searched.

    Attributes:
        workload_key: As in `SearchResult`; so the next two.
        target: Likewise.
        flop: Likewise.
        next_round: Number of candidates -> what a round of at most so many brought.
        again: A record of each program -> what measuring them again brought.
        measured: Returns all records so far, those of a resumed search included.
    """

    workload_key: str
    target: str
    flop: float
    next_round: Callable[[int], TaskRound]
    again: Callable[[Sequence[Record]], TaskRound]
    measured: Callable[[], Sequence[Record]]


def search_in_rounds(
    searched: Searched,
    settings: SearchSettings,
    earlier: Sequence[float],
    report: Callable[[Round], None] = lambda _: None,
) -> SearchResult:
    """Runs rounds until the trials are spent, and measures the best programs again.

    Args:
        searched: What is searched.
        settings: Of the search.
        earlier: Latencies in seconds of what an earlier run measured.
        report: Called after every round.
    """
    latencies = list(earlier)
    rounds: list[Round] = []
    error, stopped_early = "", False

    def note(found: TaskRound, *, confirming: bool) -> None:
        nonlocal error
        error = error or found.first_error
        latencies.extend(found.latencies)
        new, best = tuple(found.latencies), min(latencies)
        rounds.append(
            Round(len(latencies), new, best, *found.seconds, *found.counts, confirming=confirming)
        )
        report(rounds[-1])

    while (left := settings.trials - settings.confirm - len(latencies)) > 0:
        found = searched.next_round(min(settings.round_size, left))
        if not found.latencies:
            stopped_early = True
            break
        note(found, confirming=False)
    left = min(settings.confirm, settings.trials - len(latencies))
    for found in confirm(searched.measured, searched.again, left):
        note(found, confirming=True)
    return SearchResult(
        workload_key=searched.workload_key,
        target=searched.target,
        flop=searched.flop,
        latencies=tuple(latencies),
        rounds=tuple(rounds),
        best=best_record(searched.measured()),
        first_error=error,
        stopped_early=stopped_early,
    )
