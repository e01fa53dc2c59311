"""What a round of a search measures, for any engine: spend, sample, propose, choose.

Candidates come from a `Source`. `PlannerSource` evolves schedules as arrays and scores them in
latent space; the engine only samples the first ones and checks the best. An engine may have
others, such as its own evolutionary search.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from cwm_jax.features.batch import StepArrays
from cwm_jax.features.graph import encode_graph
from cwm_jax.ranking.online import OnlineRanker
from cwm_jax.ranking.scorer import Scorer, Scores, take_scores
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.steps import Step
from cwm_jax.search.planner import Planner, PlannerConfig

Schedule = tuple[Step, ...]
Candidate = Any
"""What an engine builds: of Ansor a `MeasureInput`, of MetaSchedule a `MeasureCandidate`."""
_PROPOSED_PER_TRIAL = 8


class Clock:
    """Notes when functions ran: `calls` holds start and end of each, in seconds."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that is timed."""

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.calls.append((started, time.perf_counter()))

        return timed


class Proposal(NamedTuple):
    """Candidates that could be measured next.

    Attributes:
        candidates: Candidates by their schedules, the likeliest first.
        scores: What the pretrained model says of them; None to ask it.
        counts: How many schedules were looked at, by what was done with them.
    """

    candidates: Mapping[Schedule, Candidate]
    scores: Scores | None = None
    counts: Mapping[str, Any] = {}


class Source(Protocol):
    """Where the candidates of one task come from.

    Attributes:
        checked_per_draw: Sampled schedules to look at for each that is drawn.
    """

    checked_per_draw: int

    def begin(self) -> None:
        """Begins a round."""
        ...

    def sample(self) -> Sequence[Schedule]:
        """Returns random schedules, not measured before."""
        ...

    def shuffled(self, sampled: Sequence[Schedule], count: int) -> Sequence[int]:
        """Returns places of at most `count` of what `sample` returned, in a random order."""
        ...

    def accept(self, schedules: Sequence[Schedule], count: int) -> Mapping[Schedule, Candidate]:
        """Returns the first `count` of some sampled schedules that are valid and new."""
        ...

    def propose(self, count: int, drawn: Mapping[Schedule, Candidate]) -> Proposal:
        """Returns candidates to choose from.

        Args:
            count: How many are measured in a round.
            drawn: Candidates that will be measured anyway.
        """
        ...

    def learn(self, candidates: Mapping[Schedule, Candidate], results: Sequence[Any]) -> None:
        """Takes in what was measured.

        Args:
            candidates: Candidates by their schedules.
            results: Results of the engine's device.
        """
        ...

    def close(self) -> None:
        """Ends the search."""
        ...


class Choice(NamedTuple):
    """What a round measures.

    Attributes:
        chosen: Candidates that the ranking chose, by their schedules.
        drawn: Candidates that were drawn at random.
        counts: As in `Proposal`.
    """

    chosen: Mapping[Schedule, Candidate]
    drawn: Mapping[Schedule, Candidate]
    counts: Mapping[str, Any]


class CandidateChooser:
    """Decides what a round measures: spend, sample, propose, choose.

    Candidates chosen by a wrong ranking cannot reveal that it is wrong, so `OnlineRanker.spend`
    has random ones measured, too: in the first round, and whenever no model is trusted.

    Args:
        graph: The task.
        source: Where its candidates come from.
        online: The world model; None for another one, whose order is that of the source.
        clock: Times the cost model.
    """

    def __init__(
        self, graph: ComputeGraph, source: Source, online: OnlineRanker | None, clock: Clock
    ) -> None:
        self._graph, self._source, self._online, self._clock = graph, source, online, clock

    def next(self, count: int) -> Choice:
        """Returns at most `count` new candidates to measure."""
        choices, draws = self._spend(count)
        self._source.begin()
        drawn = self._draw(draws)
        proposal = self._source.propose(count, drawn)
        return Choice(self._choose(proposal, choices), drawn, proposal.counts)

    def _spend(self, count: int) -> tuple[int, int]:
        """Returns how many candidates are chosen, and how many are drawn at random."""
        if self._online is None:
            return count, 0
        return self._clock.around(self._online.spend)(self._graph, count)

    def _draw(self, count: int) -> Mapping[Schedule, Candidate]:
        """Draws candidates, blindly until no model is trusted; then by what was measured."""
        if self._online is None or not count:
            return {}
        key, sampled = self._graph.workload_key, self._source.sample()
        checked = self._source.checked_per_draw * count
        if self._online.trusted(key) is False:
            choose = self._clock.around(self._online.choose_schedules)
            order = choose(self._graph, sampled, checked)
        else:
            order = self._source.shuffled(sampled, checked)
        drawn = self._source.accept([sampled[at] for at in order], count)
        self._online.record_drawn(key, list(drawn))
        return drawn

    def _choose(self, proposal: Proposal, count: int) -> Mapping[Schedule, Candidate]:
        """Chooses what is measured of a proposal, by the acquisition function."""
        schedules = list(proposal.candidates)
        if self._online is None:
            chosen: Sequence[int] = range(len(schedules))[:count]
        elif proposal.scores is not None:
            choose = self._clock.around(partial(self._online.choose, self._graph))
            chosen = choose(proposal.scores, count)
        else:
            choose = self._clock.around(self._online.choose_schedules)
            chosen = choose(self._graph, schedules, count)
        return {schedules[at]: proposal.candidates[schedules[at]] for at in chosen}


class DesignSpace(Protocol):
    """The schedules of one task as its engine knows them."""

    def sample(self, *, many: bool) -> Sequence[Schedule]:
        """Draws schedules at random.

        Args:
            many: Whether nothing else helps: as many as a planner's generation has, else a few
                for new structures.
        """
        ...

    def check(self, schedule: Schedule) -> tuple[Candidate | None, str]:
        """Returns the candidate of a schedule, and its loops as text.

        The candidate is None where the engine's own rules refuse it.
        """
        ...


class PlannerSource:
    """Schedules that the planner imagines; the engine samples the first ones and checks the best.

    Args:
        graph: The task.
        space: Its schedules.
        online: The world model, corrected by what is measured.
        clock: Times the cost model.
        learn: Takes candidates and results in, for the cost model.
        seed: Seed of all randomness.
        config: Settings of the planner.
    """

    checked_per_draw = 2

    def __init__(
        self,
        graph: ComputeGraph,
        space: DesignSpace,
        online: OnlineRanker,
        clock: Clock,
        learn: Callable[[Mapping[Schedule, Candidate], Sequence[Any]], None],
        seed: int,
        config: PlannerConfig,
    ) -> None:
        self._graph, self.space, self._online, self._clock = graph, space, online, clock
        self._update, self._config = learn, config
        self._rng = np.random.default_rng([seed, 1])
        self._planner, self._scorer = self._new_planner(seed), self._current_scorer()
        self._sampled_once = False
        self._sampled: Sequence[Schedule] = ()
        self._seen: set[str] = set()
        self._shown: dict[Schedule, str] = {}

    def remember(self, schedules: Sequence[Schedule]) -> None:
        """Takes in what an earlier run measured: it becomes a parent, and is not measured again."""
        self._planner.add(schedules)
        self._seen |= {shown for schedule in schedules if (shown := self.space.check(schedule)[1])}

    def begin(self) -> None:
        """Samples, after starting anew where another model has taken over."""
        key = self._graph.workload_key
        if self._scorer is not self._current_scorer():
            self._scorer = self._current_scorer()
            self._planner = self._new_planner(int(self._rng.integers(2**31)))
            self._planner.add([schedule for schedule, _ in self._online.measured[key]])
            self._sampled_once = False
        distrusted = self._online.trusted(key) is False
        many = distrusted or not self._sampled_once
        self._sampled_once = True
        self._sampled = self.space.sample(many=many)
        self._planner.add(self._sampled)

    def sample(self) -> Sequence[Schedule]:
        """Returns what the round began with."""
        return self._sampled

    def shuffled(self, sampled: Sequence[Schedule], count: int) -> Sequence[int]:
        """Returns places in a random order."""
        return [int(at) for at in self._rng.permutation(len(sampled))[:count]]

    def accept(self, schedules: Sequence[Schedule], count: int) -> Mapping[Schedule, Candidate]:
        """Returns the first valid and new ones."""
        found = dict(list(self._new(schedules)[0].items())[:count])
        self._seen |= {self._shown[schedule] for schedule in found}
        return found

    def propose(self, count: int, drawn: Mapping[Schedule, Candidate]) -> Proposal:
        """Plans, and checks what the plan proposes."""
        correct = self._clock.around(partial(self._online.corrected, self._graph))
        wanted = _PROPOSED_PER_TRIAL * count + len(self._seen)
        plan = self._planner.plan(correct, wanted)
        found, places, rejected = self._new(plan.schedules)
        counts = {
            "imagined": plan.imagined,
            "proposed": len(plan.schedules),
            "rejected": rejected,
        }
        return Proposal(found, take_scores(plan.ranked, places), counts)

    def learn(self, candidates: Mapping[Schedule, Candidate], results: Sequence[Any]) -> None:
        """Corrects the ranking."""
        self._seen |= {self._shown[schedule] for schedule in candidates}
        self._update(candidates, results)

    def close(self) -> None:
        """Does nothing: a planner holds nothing open."""

    def _new(
        self, schedules: Sequence[Schedule]
    ) -> tuple[dict[Schedule, Candidate], list[int], int]:
        """Checks schedules.

        Returns:
            Candidates of those that are valid, new and distinct; their places; and how many
            schedules the engine refused.
        """
        found: dict[Schedule, Candidate] = {}
        places: list[int] = []
        seen, rejected = set(self._seen), 0
        for place, schedule in enumerate(schedules):
            candidate, shown = self.space.check(schedule)
            if candidate is None:
                rejected += 1
            elif shown not in seen:
                seen.add(shown)
                found[schedule] = candidate
                self._shown[schedule] = shown
                places.append(place)
        return found, places, rejected

    def _new_planner(self, seed: int) -> Planner:
        rng = np.random.default_rng(seed)
        return Planner(self._graph, self._clock.around(self._rank), self._config, rng)

    def _current_scorer(self) -> Scorer:
        return self._online.scorer_of(self._graph.workload_key)

    def _rank(self, steps: StepArrays) -> Scores:
        return self._scorer.rank_arrays(encode_graph(self._graph, steps.slots), steps)
