"""Candidates scored per second where a search asks for scores, and from arrays."""

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cwm_jax.errors import CwmError
from cwm_jax.features.batch import encode_schedules
from cwm_jax.features.graph import encode_graph
from cwm_jax.interrupts import run_child
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.steps import Step

_REST = 0.2
"""Seconds before a timed call: threads that have just calculated spin for a while, and between two
calls a search does something else."""

_FIRST_SCORE = """
import sys, time
started = time.perf_counter()
import cwm_jax
from cwm_jax.records.graph import shape_only_graph
from cwm_jax.records.steps import Step
scorer = cwm_jax.Scorer.load(sys.argv[1])
schedule = (Step("SP", (2, 0, 64, (8,), 1)),)
scorer.rank_schedules(shape_only_graph('["f", 8]'), [schedule] * 64)
print(time.perf_counter() - started)
"""


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Candidates per second at one batch size, medians over interleaved repeats.

    Attributes:
        batch: States a call.
        world_model: Seconds of the world model.
        rival: Seconds of the engine's own model, feature extraction included.
        ratio: Median of the ratios of neighbouring repeats.
    """

    batch: int
    world_model: float
    rival: float
    ratio: float


Prepare = Callable[[int], Callable[[], Any]]


def measure_throughput(
    prepare: Mapping[str, Prepare], batches: Sequence[int], repeats: int
) -> list[Throughput]:
    """Times the predictions of the world model and its rival of the same candidates, in turn.

    Args:
        prepare: Functions by model that prepare the scoring of so many candidates
            (`cwm_jax.tuning.engine.ScoringCalls`).
        batches: Batch sizes.
        repeats: Timed calls of each model at each size, after one that is not timed.
    """
    found: list[Throughput] = []
    for batch in batches:
        rates: dict[str, list[float]] = {name: [] for name in prepare}
        for repeat in range(repeats + 1):
            for name, prepared in prepare.items():
                score = prepared(batch)
                time.sleep(_REST)
                seconds = _seconds(score)
                if repeat:
                    rates[name].append(batch / seconds)
        ours = rates["world-model"]
        (theirs,) = (rates[name] for name in rates if name != "world-model")
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        found.append(Throughput(batch, statistics.median(ours), statistics.median(theirs), ratio))
    return found


def array_rates(
    graph: ComputeGraph, schedules: Sequence[tuple[Step, ...]], scorer: Scorer, repeats: int
) -> list[float]:
    """Times scoring from arrays, as a planner does: candidates per second, one a repeat.

    Args:
        graph: Compute graph of the workload.
        schedules: Candidates; they are encoded before the clock starts.
        scorer: The world model's checkpoint.
        repeats: Timed calls, after one that is not timed.
    """
    steps = encode_schedules(schedules, graph)
    encoded = encode_graph(graph, steps.slots)
    seconds = [_seconds(scorer.rank_arrays, encoded, steps) for _ in range(repeats + 1)][1:]
    return [len(schedules) / taken for taken in seconds]


def distinct_beginnings(schedules: Sequence[tuple[Step, ...]]) -> float:
    """Returns the share of all steps that end a beginning which no schedule before them has.

    It is what rollouts would still cost if schedules that begin alike shared a latent.

    Args:
        schedules: At least one, and not all empty.
    """
    known: dict[tuple[int, Step], int] = {}
    for schedule in schedules:
        beginning = 0
        for step in schedule:
            beginning = known.setdefault((beginning, step), len(known) + 1)
    return len(known) / sum(map(len, schedules))


def peak_memory_bytes() -> int:
    """Returns the most memory that this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _seconds(function: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def first_score_seconds(checkpoint: str, repeats: int) -> list[float]:
    """Times import, loading and a first batch of 64, each time in a fresh process.

    Raises:
        CwmError: The checkpoint cannot be loaded.
    """
    command = [sys.executable, "-c", _FIRST_SCORE, checkpoint]
    seconds: list[float] = []
    for _ in range(repeats):
        code, output, errors = run_child(command)
        if code != 0:
            last = (errors.strip().splitlines() or ["no reason given"])[-1]
            raise CwmError(f"{checkpoint}: cannot be loaded and asked for a score ({last})")
        seconds.append(float(output))
    return seconds
