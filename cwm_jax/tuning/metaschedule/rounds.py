"""Rounds of a MetaSchedule search: each finds candidates, measures them, and keeps what it saw."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from cwm_jax.ranking.online import Schedule
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.record import Record, latency_of_costs
from cwm_jax.search.trace_planner import TracePlannerConfig
from cwm_jax.tuning.interrupts import SearchInterrupted
from cwm_jax.tuning.loop import Counts, TaskRound
from cwm_jax.tuning.metaschedule.session import SearchSession
from cwm_jax.tuning.metaschedule.sources import Evolution, Imagination, Sampler, Source
from cwm_jax.tvm_bridge.metaschedule.traces import record_of_result, steps_of_candidates

_OFFERED = 4
"""Candidates that are offered for each one that the world model chooses to measure."""
_POOL = 512
"""Offered candidates that are kept for later rounds: none is offered twice."""


class FoundRound(NamedTuple):
    """What a round measured.

    Attributes:
        records: Of its candidates; none when the search space is exhausted.
        first_error: What TVM said of the first failure, or "".
        seconds: In search, in the cost model, in building and running.
        predicted: Candidates that the model scored.
    """

    records: list[Record]
    first_error: str
    seconds: tuple[float, float, float]
    predicted: int

    def told(self) -> TaskRound:
        """Returns the same without the programs."""
        latencies = [record.latency for record in self.records]
        counts = Counts(predicted=self.predicted)
        return TaskRound(latencies, self.seconds, self.first_error, counts)


class ModuleSearch:
    """A search of one module, asked for one round at a time.

    Args:
        session: Shared with other modules.
        module: `tvm.IRModule` of one function, `main`.
        graph: The same.
        earlier: Measurements of the module that the session's files hold already.
    """

    def __init__(
        self, session: SearchSession, module: Any, graph: ComputeGraph, earlier: Sequence[Record]
    ) -> None:
        tvm, target, config = session.tvm, session.target, session.config
        files, timed = session.files, session.timed
        self._tvm = tvm
        self._graph, self._target, self._files = graph, target, files
        self._measure_all, self._interrupt = session.measure, session.interrupt
        self._known = {record.steps for record in earlier}
        self._pool: dict[Schedule, Any] = {}
        self._timed = timed
        self._workload = files.database.commit_workload(module)
        offered = config.round_size * (_OFFERED if timed.online else 1)
        seed = config.seed + 1 + 1000 * len(earlier)
        self._sampler = Sampler(tvm, module, target, seed) if timed.online else None
        if config.search == "planner":
            if timed.online is None or self._sampler is None:
                raise ValueError("the planner needs the world model")
            self._source: Source = Imagination(
                tvm,
                module,
                graph,
                timed.online,
                timed.clock,
                self._sampler,
                offered,
                seed,
                TracePlannerConfig(population=config.population),
            )
        else:
            self._source = Evolution(
                tvm,
                module,
                graph,
                target,
                files.database,
                timed.model,
                # TVM counts what is measured, but cuts what it offers by its own round.
                trials=config.trials - len(earlier) + offered - config.round_size,
                count=offered,
                population=config.population,
                seed=seed,
            )
        self._remind()

    def _remind(self) -> None:
        """Lets the model learn from the trials of an earlier run."""
        ms = self._tvm.s_tir.meta_schedule
        database = self._files.database
        known = [r for r in database.get_all_tuning_records() if r.workload.same_as(self._workload)]
        if known:
            candidates = [record.as_measure_candidate() for record in known]
            results = [
                ms.runner.RunnerResult(seconds, None)
                if latency_of_costs(seconds := [float(value) for value in record.run_secs or ()])
                < math.inf
                else ms.runner.RunnerResult(None, "failed before")
                for record in known
            ]
            self._timed.model.update(self._source.context, candidates, results)

    def next_round(self, most: int) -> FoundRound:
        """Measures at most so many candidates; none if the search has no more.

        Raises:
            KeyboardInterrupt: The user asked to stop; this round is lost.
        """
        clock, source, model = self._timed.clock, self._source, self._timed.model
        clock.calls.clear()
        before = self._timed.predicted() + source.imagined
        started = time.perf_counter()
        choices, drawn = self._spend(most)
        try:
            for schedule, candidate in source.offer(self._known).items():
                self._pool.setdefault(schedule, candidate)
        except RuntimeError:  # what TVM makes of an error in the cost model
            self._stop_if_requested()
            raise
        self._stop_if_requested()
        for schedule in drawn:
            self._pool.pop(schedule, None)
        chosen = [*self._take(choices), *drawn.items()]
        candidates = [candidate for _, candidate in chosen]
        measuring = time.perf_counter()
        results = self._measure(candidates)
        measured = time.perf_counter()
        source.note(candidates, results)
        if candidates:
            model.update(source.context, candidates, results)
        updated = time.perf_counter()
        records = self._keep(chosen, results)
        self._known.update(record.steps for record in records)
        predicting = sum(end - start for start, end in clock.calls)
        return FoundRound(
            records,
            _first_error(results),
            (
                measuring - started - predicting,
                predicting + updated - measured,
                measured - measuring,
            ),
            self._timed.predicted() + source.imagined - before,
        )

    def again(self, records: Sequence[Record]) -> FoundRound:
        """Measures programs of the search again.

        Args:
            records: One of each program.

        Raises:
            KeyboardInterrupt: As for `next_round`.
        """
        started = time.perf_counter()
        chosen = [(record.steps, self._files.candidate(record)) for record in records]
        measuring = time.perf_counter()
        results = self._measure([candidate for _, candidate in chosen])
        measured = time.perf_counter()
        seconds = (measuring - started, 0.0, measured - measuring)
        return FoundRound(self._keep(chosen, results), _first_error(results), seconds, 0)

    def _keep(self, chosen: Sequence[tuple[Schedule, Any]], results: Sequence[Any]) -> list[Record]:
        """Appends measurements to the files; returns them as records."""
        records = [
            record_of_result(self._graph, self._target, schedule, result)
            for (schedule, _), result in zip(chosen, results, strict=True)
        ]
        candidates = [candidate for _, candidate in chosen]
        self._files.append(self._workload, self._target, candidates, records)
        return records

    def _spend(self, most: int) -> tuple[int, dict[Schedule, Any]]:
        """Returns how many candidates to choose, and those that are drawn beside them.

        They are drawn blindly until the model is known to be wrong; then by what was measured.
        """
        online, graph = self._timed.online, self._graph
        if online is None or self._sampler is None:
            return most, {}
        clock = self._timed.clock
        choices, count = clock.around(online.spend)(graph, most)
        if not count:
            return choices, {}
        sampled = self._sampler.draw()
        steps = steps_of_candidates(self._tvm, sampled, graph)
        fresh = {
            schedule: candidate
            for schedule, candidate in zip(steps, sampled, strict=True)
            if schedule not in self._known
        }
        schedules = list(fresh)
        order = range(len(schedules))
        if online.trusted(graph.workload_key) is False:
            order = clock.around(online.choose_schedules)(graph, schedules, count)
        drawn = {schedules[at]: fresh[schedules[at]] for at in order[:count]}
        online.note_drawn(graph.workload_key, list(drawn))
        return choices, drawn

    def _take(self, most: int) -> list[tuple[Schedule, Any]]:
        """Takes what is measured next out of the pool."""
        pool = list(self._pool.items())
        online = self._timed.online
        if online is None:
            self._pool.clear()
            return pool[:most]
        choose = self._timed.clock.around(online.choose_schedules)
        chosen = choose(self._graph, list(self._pool), most)
        taken = [pool[at] for at in chosen]
        for schedule, _ in taken:
            del self._pool[schedule]
        self._pool = dict(list(self._pool.items())[-_POOL:])
        return taken

    def _measure(self, candidates: Sequence[Any]) -> list[Any]:
        try:
            results = self._measure_all(candidates)
        except SearchInterrupted:
            raise KeyboardInterrupt from None
        self._stop_if_requested()  # the processes that measure were interrupted, too
        return results

    def _stop_if_requested(self) -> None:
        if self._interrupt.requested:
            raise KeyboardInterrupt

    def finish(self) -> None:
        """Tells TVM that the search is over."""
        self._source.close()
        if self._sampler is not None:
            self._sampler.close()


def _first_error(results: Sequence[Any]) -> str:
    errors = (str(result.error_msg).strip() for result in results if result.error_msg)
    return next((error.splitlines()[-1] for error in errors if error), "")
