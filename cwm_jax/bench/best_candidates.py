"""Winners of searches, built again and measured in turn, several times.

Each runs between runs of a reference program that says how fast the machine was.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cwm_jax.records.lines import in_chunks
from cwm_jax.records.record import Record
from cwm_jax.search.confirmation import best_programs
from cwm_jax.tuning.engine import Engine
from cwm_jax.tuning.measurement import Device, MeasureConfig, SteadyMeasurer, reference_path
from cwm_jax.tuning.reference import ReferenceRun, read_reference

WINNERS_FILE = "winners.jsonl"
"""In a folder of searches: what was measured of their winners."""

_TOGETHER = 8  # so many share the reference between them, and the wait for a steady machine

WINNERS_MEASURED = MeasureConfig(
    build_timeout=60,
    run_timeout=30,
    repeat=3,
    min_repeat_ms=100,
    reference_every=1,
    tolerance=0.1,
)


class Winner(NamedTuple):
    """One of the fastest programs of a search.

    Attributes:
        name: Short hash of it.
        latency: As measured in the search, in seconds.
        place: Log or folder of the search.
        record: The candidate as recorded.
    """

    name: str
    latency: float
    place: Path
    record: Record


def best_candidates(engine: Engine, place: Path, trials: int, count: int = 1) -> list[Winner]:
    """Returns the best candidates among the first records of a search.

    Args:
        engine: Engine of the searches.
        place: Its log or folder.
        trials: How many records.
        count: How many candidates at most, the best first; at least one is returned.
    """
    records = engine.recorded(place)[:trials]
    return [winner_of(engine, place, best) for best in best_programs(records, count) or records[:1]]


def winner_of(engine: Engine, place: Path, record: Record) -> Winner:
    """Returns a record as what is measured again."""
    name = short_hash(engine.identity(place, record))
    return Winner(name, record.latency, place, record)


def short_hash(identity: bytes) -> str:
    """Returns a name for what a candidate is built from."""
    return hashlib.sha256(identity).hexdigest()[:16]


class Remeasured(NamedTuple):
    """A measurement of a winner.

    Attributes:
        latency: Latency in seconds, scaled to the level; infinity if it failed.
        level: Latency of the reference program that it is scaled to, in seconds.
    """

    latency: float
    level: float


def measurer_of(engine: Engine, file: Path) -> Callable[[Sequence[Winner]], list[Remeasured]]:
    """Returns what builds and measures winners together, all of a file scaled to one level.

    Args:
        engine: Builds and runs them; it knows their tasks.
        file: What `remeasure` writes.

    Raises:
        CorpusError: Whenever it measures, and the machine did not become steady.
    """

    @cache
    def device() -> Device:
        return engine.device(WINNERS_MEASURED)

    @cache  # nothing is built where all has been measured
    def measurer() -> SteadyMeasurer:
        level = _level_of_winners(file)
        history = [] if level is None else [ReferenceRun(0.0, level, (), accepted=True)]
        return SteadyMeasurer(device(), WINNERS_MEASURED, history)

    def measure(winners: Sequence[Winner]) -> list[Remeasured]:
        results = measurer().measure(
            [engine.candidate(winner.place, winner.record) for winner in winners]
        )
        level = measurer().history[0].level
        return [Remeasured(device().latency(result), level) for result in results]

    return measure


def remeasure(
    winners: Sequence[Winner],
    measure: Callable[[Sequence[Winner]], Sequence[Remeasured]],
    rounds: int,
    file: Path,
    report: Callable[[int], None] = lambda _: None,
) -> list[list[float]]:
    """Measures programs in turn, `rounds` times.

    Args:
        winners: Programs to measure; equal ones are measured once a round.
        measure: Builds and measures a few, one after the other.
        rounds: How often each is built and measured.
        file: JSON lines of what is measured; a call with the same winners goes on with it. Rows of
            before latencies were scaled count only as long as nothing is to be added to them.
        report: Called with how many are measured, whenever there are more.

    Returns:
        The latencies of each in seconds, round by round; infinity for a failure.
    """
    rows = _rows(file)
    distinct = {winner.name: winner for winner in winners}
    wanted = [(name, number) for number in range(rounds) for name in distinct]
    if {*wanted} - {(row["program"], row["round"]) for row in rows}:
        rows = [row for row in rows if "level" in row]
    done = {
        (row["program"], row["round"]): math.inf if row["latency"] is None else row["latency"]
        for row in rows
    }
    for number in range(rounds):
        missing = [name for name in distinct if (name, number) not in done]
        for names in in_chunks(missing, _TOGETHER):
            measured = measure([distinct[name] for name in names])
            with file.open("ab") as out:
                for name, (latency, level) in zip(names, measured, strict=True):
                    done[name, number] = latency
                    shown = latency if math.isfinite(latency) else None
                    row = {"program": name, "round": number, "latency": shown, "level": level}
                    out.write(orjson.dumps(row) + b"\n")
            report(len(done))
    return [[done[winner.name, number] for number in range(rounds)] for winner in winners]


def to_winners_level(records: Path, winners: Path) -> float:
    """Returns by what latencies of a search are multiplied to be comparable with its winners'.

    Both are scaled to how fast the reference program was when they began; 1 where either is not.

    Args:
        records: Records of the search.
        winners: What `remeasure` writes.
    """
    searched = read_reference(reference_path(records))
    level = _level_of_winners(winners)
    return level / searched[0].level if searched and level is not None else 1.0


def _level_of_winners(file: Path) -> float | None:
    """Latency of the reference that measurements of winners are scaled to; None if they are not."""
    return next((row["level"] for row in _rows(file) if "level" in row), None)


def _rows(file: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []
