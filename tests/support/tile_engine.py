"""A third engine, in one module: matrix products in numpy, whose schedule is how they are tiled.

PYTHONPATH=tests/support cwm tune --engine tile_engine:TILES --workload matmul:96,96,96
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cwm_jax.errors import WorkloadError
from cwm_jax.ranking.gaussian_process import ADAPTATIONS
from cwm_jax.ranking.online import OnlineRanker
from cwm_jax.records.ansor_log import append_records, format_line
from cwm_jax.records.graph import (
    Axis,
    BufferRead,
    ComputeGraph,
    Stage,
    add_graphs,
    graphs_path,
)
from cwm_jax.records.lines import LogSummary, append_member
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Record, TaskDetails
from cwm_jax.records.steps import Step
from cwm_jax.search.planner import PlannerConfig
from cwm_jax.search.rounds import Clock, PlannerSource, Proposal
from cwm_jax.tuning.collection import Drawn
from cwm_jax.tuning.corpus import CorpusTask
from cwm_jax.tuning.engine import Engine, ScoringCalls, Task
from cwm_jax.tuning.loop import RankedSearch
from cwm_jax.tuning.measurement import measure_once
from cwm_jax.tuning.registry import EngineDescription

TARGET = "llvm -num-cores=1"


class Tiled(NamedTuple):
    """A candidate: extents of the product, and the tile of its rows and columns."""

    extents: tuple[int, int, int]
    tile: tuple[int, int]

    @property
    def schedule(self) -> tuple[Step, ...]:
        rows, columns, _ = self.extents
        return (
            Step("SP", (2, 0, rows, (self.tile[0],), 1)),
            Step("SP", (2, 2, columns, (self.tile[1],), 1)),
        )


class Timed(NamedTuple):
    """A result: seconds of each measurement, or what went wrong."""

    seconds: tuple[float, ...]
    error: str = ""


class NumpyDevice:
    """Multiplies for real."""

    reference = Tiled((64, 64, 64), (16, 64))

    def __init__(self, repeat: int = 1) -> None:
        self._repeat = repeat

    def build(self, inputs):
        return list(inputs)

    def failure(self, built):
        return ""

    def run(self, inputs, built):
        return [self._run(candidate) for candidate in built]

    def _run(self, candidate: Tiled) -> Timed:
        (rows, columns, depth), (height, width) = candidate
        rng = np.random.default_rng(0)
        left, right = rng.random((rows, depth)), rng.random((depth, columns))
        seconds = []
        for _ in range(self._repeat):
            out = np.empty((rows, columns))
            started = time.perf_counter()
            for row in range(0, rows, height):
                for column in range(0, columns, width):
                    tile = slice(row, row + height), slice(column, column + width)
                    out[tile] = left[tile[0]] @ right[:, tile[1]]
            seconds.append(time.perf_counter() - started)
        if not np.allclose(out, left @ right):
            return Timed((), "wrong product")
        return Timed(tuple(seconds))

    def latency(self, result):
        return float(np.median(result.seconds)) if result.seconds else math.inf

    def scaled(self, result, factor):
        return Timed(tuple(factor * each for each in result.seconds), result.error)

    def discard(self, built):
        pass


class TileSpace:
    """All tiles that divide the product."""

    def __init__(self, extents: tuple[int, int, int], seed: int) -> None:
        self._extents, self._rng = extents, np.random.default_rng(seed)

    def sample(self, *, many: bool) -> list[tuple[Step, ...]]:
        return [candidate.schedule for candidate in self.draw(256 if many else 16)]

    def draw(self, count: int) -> list[Tiled]:
        rows, columns, _ = self._extents
        pairs = zip(
            self._rng.choice(_divisors(rows), count),
            self._rng.choice(_divisors(columns), count),
            strict=True,
        )
        return [Tiled(self._extents, (int(a), int(b))) for a, b in pairs]

    def check(self, schedule: tuple[Step, ...]) -> tuple[Tiled | None, str]:
        found = Tiled(self._extents, tuple(step.fields[3][0] for step in schedule))
        divides = all(
            extent % tile == 0 for extent, tile in zip(self._extents, found.tile, strict=False)
        )
        return (found, str(found.tile)) if divides else (None, "")


class RandomSource:
    """Tiles in a random order, for a search without a model."""

    checked_per_draw = 1

    def __init__(self, space: TileSpace, known: Sequence[tuple[Step, ...]]) -> None:
        self._space, self._known = space, set(known)

    def begin(self):
        pass

    def propose(self, count, drawn):
        found = {
            one.schedule: one for one in self._space.draw(64) if one.schedule not in self._known
        }
        return Proposal(found)

    def learn(self, candidates, results):
        self._known.update(candidates)

    def close(self):
        pass


class LoggedTrials:
    def __init__(self, task: Task, log: Path) -> None:
        self._task, self._log = task, log

    def measure(self, candidates):
        return measure_once(NumpyDevice(), candidates)

    def keep(self, candidates, results):
        append_records(
            self._log, map(partial(_record, self._task.workload_key), candidates, results)
        )

    def latencies(self, results):
        return tuple(np.mean(result.seconds) if result.seconds else math.inf for result in results)

    def first_error(self, results):
        return next((result.error for result in results if result.error), "")

    def load(self, records):
        space = TileSpace(self._task.handle, 0)
        return {record.steps: space.check(record.steps)[0] for record in records}


class TileSession:
    def __init__(self, tasks, config, log, scorer, *, resume, interrupt) -> None:
        self._tasks, self._config, self._log, self._interrupt = tasks, config, log, interrupt
        found = load_records(log, summary=LogSummary()) if resume else []
        self.earlier = [
            [record for record in found if record.workload_key == task.workload_key]
            for task in tasks
        ]
        add_graphs([_graph(task.handle) for task in tasks], graphs_path(log))
        self._online = None
        if config.cost_model == "world-model":
            self._online = OnlineRanker(scorer, ADAPTATIONS[config.adaptation])
        self._searches: dict[int, RankedSearch] = {}

    def search(self, task: int) -> RankedSearch:
        if task not in self._searches:
            one, earlier = self._tasks[task], self.earlier[task]
            seed, clock = self._config.seed + 1000 * len(earlier), Clock()
            space, graph = TileSpace(one.handle, seed), _graph(one.handle)
            trials, online = LoggedTrials(one, self._log), self._online
            known = [record.steps for record in earlier]
            source: Any = RandomSource(space, known)
            if online is not None:

                def learn(candidates, results):
                    for schedule, latency in zip(
                        candidates, trials.latencies(results), strict=True
                    ):
                        online.learn(one.workload_key, schedule, latency)

                planner = PlannerConfig(self._config.population or 64, 2)
                source = PlannerSource(graph, space, online, clock, learn, seed, planner)
                for record in earlier:
                    online.learn(one.workload_key, record.steps, record.latency)
                source.remember(known)
            self._searches[task] = RankedSearch(
                graph, source, trials, online, clock, self._interrupt
            )
        return self._searches[task]

    def records(self, task: int) -> list[Record]:
        found = load_records(self._log, summary=LogSummary())
        return [r for r in found if r.workload_key == self._tasks[task].workload_key]

    def give_up(self, task: int, error: Exception) -> None:
        raise error


class TileCollector:
    """Draws tiles at random for a corpus."""

    def graph(self, task: CorpusTask) -> ComputeGraph:
        return _graph(_extents(task))

    def draw(self, corpus, task, size, seed, earlier) -> Drawn:
        records = load_records(corpus.records, summary=LogSummary()) if earlier else []
        known = {record.steps for record in records if record.workload_key == task.workload_key}
        found: dict[tuple[Step, ...], Tiled] = {}
        for one in TileSpace(_extents(task), seed).draw(8 * size):
            if one.schedule not in known and len(found) < size:
                found[one.schedule] = one
        return Drawn(list(found.values()), partial(self._keep, corpus.records, task, list(found)))

    def again(self, corpus, records) -> Drawn:
        inputs = [TileSpace(_extents(task), 0).check(record.steps)[0] for task, record in records]

        def keep(results):
            for (task, record), result in zip(records, results, strict=True):
                self._keep(corpus.remeasured, task, [record.steps], [result])

        return Drawn(inputs, keep)

    def error(self, result: Timed) -> str:
        return result.error

    def _keep(self, path, task, schedules, results):
        records = map(partial(_record, task.workload_key), schedules, results)
        append_member(path, map(format_line, records))


class TileTasks:
    """Tasks of a corpus."""

    def network_tasks(self, network):
        raise WorkloadError(f"{network}: the tile engine knows no networks")

    def workload_task(self, workload) -> CorpusTask:
        (task,) = TileEngine().tasks(workload)
        extents = ",".join(map(str, task.handle))
        return CorpusTask(task.workload_key, TARGET, 0, task.flop, extents, {})


class TileEngine(Engine):
    target = TARGET

    def tasks(self, source: Any) -> list[Task]:
        if source.operator != "matmul":
            raise WorkloadError(f"{source.operator}: the tile engine multiplies matrices only")
        rows, columns, depth = source.arguments[:3]
        key = f'["tiles", {rows}, {columns}, {depth}]'
        extents = (rows, columns, depth)
        flop = 2.0 * rows * columns * depth
        return [Task(key, "matmul", flop, "matmul", _graph(extents), extents)]

    @contextmanager
    def session(
        self, tasks, config, place, scorer, *, resume, interrupt, learn_every
    ) -> Iterator[TileSession]:
        yield TileSession(tasks, config, place, scorer, resume=resume, interrupt=interrupt)

    def recorded(self, place: Path) -> list[Record]:
        return load_records(place, summary=LogSummary())

    def candidate(self, place: Path, record: Record) -> Tiled:
        extents = tuple(int(part) for part in record.workload_key.strip("[]").split(",")[1:])
        found, _ = TileSpace(extents, 0).check(record.steps)
        assert found is not None
        return found

    def identity(self, place: Path, record: Record) -> bytes:
        return str(record.steps).encode()

    def schedule_text(self, place: Path, task: Task, record: Record) -> str:
        return f"tiles of {self.candidate(place, record).tile}"

    def device(self, config) -> NumpyDevice:
        return NumpyDevice(config.repeat)

    def collector(self, scorer) -> TileCollector:
        return TileCollector()

    def corpus_tasks(self) -> TileTasks:
        return TileTasks()

    def scoring_calls(self, task: Task, scorer, count: int) -> ScoringCalls:
        graph = task.graph
        schedules = [one.schedule for one in TileSpace(task.handle, 0).draw(count)]
        rng = np.random.default_rng(0)
        rank = partial(scorer.rank_schedules, graph)
        return ScoringCalls(
            graph,
            schedules,
            {
                "world-model": lambda batch: partial(rank, schedules[:batch]),
                "random": lambda batch: partial(rng.random, batch),
            },
        )


TILES = EngineDescription(
    "tile_engine:TILES",
    "Tiles",
    lambda target, remote: TileEngine(),
    cost_models=("world-model", "random"),
    searches=("planner",),
    scoring_batches=(16,),
)


def _divisors(number: int) -> list[int]:
    return [tile for tile in range(1, number + 1) if number % tile == 0]


def _extents(task: CorpusTask) -> tuple[int, int, int]:
    rows, columns, depth = map(int, task.tensors.split(","))
    return rows, columns, depth


def _graph(extents: tuple[int, int, int]) -> ComputeGraph:
    rows, columns, depth = extents
    axes = (Axis("i", rows, False), Axis("j", columns, False), Axis("k", depth, True))
    key = f'["tiles", {rows}, {columns}, {depth}]'
    nothing = (0,) * 7
    stages = (
        Stage("A", "placeholder", "", "float64", (rows, depth), (), (), nothing),
        Stage("B", "placeholder", "", "float64", (depth, columns), (), (), nothing),
        Stage(
            "C",
            "compute",
            "matmul",
            "float64",
            (rows, columns),
            axes,
            (BufferRead(0, (depth, 0, 1), True), BufferRead(1, (0, 1, columns), True)),
            (1, 1, 0, 0, 0, 0, 0),
        ),
    )
    return ComputeGraph(key, stages, 2.0 * rows * columns * depth)


def _record(key: str, schedule: tuple[Step, ...], result: Timed) -> Record:
    costs = result.seconds or (1e10,)
    return Record(
        key, TARGET, TaskDetails(None, ()), schedule, costs, int(not result.seconds), 0.1, 0, "v0.6"
    )
