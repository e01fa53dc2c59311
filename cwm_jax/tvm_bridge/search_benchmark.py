"""Search curves of several cost models, compared fairly on one machine.

Every search runs in a fresh process and models take turns, so that a drift of the machine
touches all of them; the winners are then built again and measured in turn, several times, each
between runs of a reference program that says how fast the machine was.
"""

import dataclasses
import hashlib
import math
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from cwm_jax.errors import CwmError
from cwm_jax.prefetching import in_chunks
from cwm_jax.tvm_bridge.measuring import Device, MeasureConfig, SteadyMeasurer
from cwm_jax.tvm_bridge.reference import ReferenceRun, read_reference
from cwm_jax.tvm_bridge.steady_search import reference_path

_WORLD_MODEL = ("--cost-model", "world-model")
# As their engines have them: neither measures its best programs again.
_OTHERS = ("--confirm", "0", "--cost-model")

VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "ansor": {
        "world-model": _WORLD_MODEL,
        "world-model-unconfirmed": (*_WORLD_MODEL, "--confirm", "0"),
        "world-model-evolutionary": (*_WORLD_MODEL, "--search", "evolutionary"),
        "world-model-mean": (*_WORLD_MODEL, "--adaptation", "mean"),
        "world-model-pretrained-only": (*_WORLD_MODEL, "--adaptation", "none"),
        "xgboost": (*_OTHERS, "xgboost"),
        "xgboost-pretrained": (*_OTHERS, "xgboost", "--pretrain"),
        "random": (*_OTHERS, "random"),
    },
    "metaschedule": {
        "world-model": _WORLD_MODEL,
        "world-model-unconfirmed": (*_WORLD_MODEL, "--confirm", "0"),
        "world-model-evolutionary": (*_WORLD_MODEL, "--search", "evolutionary"),
        "world-model-mean": (*_WORLD_MODEL, "--adaptation", "mean"),
        "world-model-pretrained-only": (*_WORLD_MODEL, "--adaptation", "none"),
        "xgboost": (*_OTHERS, "xgboost"),
        "mlp": (*_OTHERS, "mlp"),
        "random": (*_OTHERS, "random"),
    },
}
"""Ways to search, by engine, as options of `cwm tune`; a corpus follows `--pretrain`."""


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


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """One search of the benchmark.

    Attributes:
        workload: As for `cwm tune`.
        variant: In `VARIANTS`.
        seed: Of the search.
        trials: To measure.
        round_size: Of them in a round.
    """

    workload: str
    variant: str
    seed: int
    trials: int
    round_size: int = 16

    @property
    def name(self) -> str:
        """File name stem of the run's log and results."""
        what = re.sub(r"[:#]", "-", self.workload).replace(",", "x")
        return f"{what}-{self.variant}-{self.seed}-{self.trials}"


def plan_runs(
    workloads: Sequence[str], variants: Sequence[str], seeds: Sequence[int], trials: int
) -> list[SearchRun]:
    """Orders the searches so that the variants of one workload and seed follow each other.

    The variant that goes first alternates.
    """
    runs: list[SearchRun] = []
    for seed in seeds:
        for at, workload in enumerate(workloads):
            turn = (at + seed) % len(variants)
            ordered = [*variants[turn:], *variants[:turn]]
            runs += [SearchRun(workload, variant, seed, trials) for variant in ordered]
    return runs


def run_search(
    run: SearchRun,
    engine: str,
    checkpoint: str,
    corpus: Path,
    folder: Path,
    reference_every: int | None = None,
) -> dict[str, Any]:
    """Runs one search in a process of its own, or returns what an earlier call finished.

    A search that was stopped goes on from its log.

    Args:
        run: The search.
        engine: Who searches.
        checkpoint: Of the world model.
        corpus: What a pretrained rival learns from.
        folder: Where logs and results are kept.
        reference_every: As for `cwm tune`.

    Raises:
        CwmError: The search failed, or an earlier call's was measured otherwise.
    """
    result = folder / f"{run.name}.json"
    if result.exists():
        found = orjson.loads(result.read_bytes())
        before = found.get("reference_every")
        if before != reference_every:
            raise CwmError(
                f"{result}: was measured with --reference-every {before}, not {reference_every}; "
                "name another --out"
            )
        return found
    log = log_of(run, engine, folder)
    command = [sys.executable, "-m", "cwm_jax.cli.main", "tune", "--workload", run.workload]
    variant = VARIANTS[engine][run.variant]
    command += [*variant, *([str(corpus)] if variant[-1] == "--pretrain" else [])]
    command += ["--trials", str(run.trials), "--seed", str(run.seed), "--json", str(result)]
    command += ["--engine", engine, "--round", str(run.round_size), "--checkpoint", checkpoint]
    command += ["--reference-every", str(reference_every)] if reference_every else []
    command += ["--resume" if log.exists() else "--log", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CwmError(f"{run.name}: {done.stderr.strip() or done.stdout.strip()}")
    return orjson.loads(result.read_bytes())


def folders_of(
    runs: Sequence[SearchRun], own: Path, others: Sequence[Path]
) -> dict[SearchRun, Path]:
    """Returns where each search is kept.

    Searches that are compared, those of one workload, seed and length, lie in one folder: another
    machine's if all of them are finished there, else this machine's own.

    Args:
        runs: All searches.
        own: Folder of this machine.
        others: Folders of other machines.
    """
    compared: dict[tuple[str, int, int], list[SearchRun]] = defaultdict(list)
    for run in runs:
        compared[run.workload, run.seed, run.trials].append(run)
    found: dict[SearchRun, Path] = {}
    for together in compared.values():
        finished = (
            folder
            for folder in others
            if all((folder / f"{run.name}.json").exists() for run in together)
        )
        found |= dict.fromkeys(together, next(finished, own))
    return {run: found[run] for run in runs}


def log_of(run: SearchRun, engine: str, folder: Path) -> Path:
    """Where a search keeps its measurements: Ansor's log, or MetaSchedule's folder."""
    return folder / (f"{run.name}.jsonl" if engine == "ansor" else run.name)


def to_winners_level(records: Path, winners: Path) -> float:
    """Returns by what latencies of a search are multiplied to be comparable with its winners'.

    Both are scaled to how fast the reference program was when they began; 1 where either is not.

    Args:
        records: Of the search.
        winners: What `remeasure` writes.
    """
    searched = read_reference(reference_path(records))
    level = _level_of_winners(winners)
    return level / searched[0].level if searched and level is not None else 1.0


class Winner(NamedTuple):
    """One of the fastest programs of a search.

    Attributes:
        name: Short hash of it.
        latency: As measured in the search, in seconds.
        program: What its engine builds it from.
    """

    name: str
    latency: float
    program: Any


class Winners(Protocol):
    """What is an engine's own in the benchmark.

    Attributes:
        target: TVM target of this machine.
        device: Builds and runs by `WINNERS_MEASURED`.
    """

    target: str
    device: Device

    def after(self, log: Path, trials: int, count: int = 1) -> list[Winner]:
        """Returns the best programs among the first records of a search's log.

        Args:
            log: Of the search.
            trials: How many records.
            count: How many programs at most, the best first; at least one is returned.
        """
        ...

    def records(self, log: Path) -> Path:
        """Returns the records of a search's log."""
        ...

    def input_of(self, winner: Winner) -> Any:
        """Returns a winner as an input of `device`."""
        ...


def program_name(text: str | bytes) -> str:
    """Returns a short hash of what a program is built from."""
    data = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()[:16]


class Remeasured(NamedTuple):
    """A measurement of a winner.

    Attributes:
        latency: In seconds, scaled to the level; infinity if it failed.
        level: Latency of the reference program that it is scaled to, in seconds.
    """

    latency: float
    level: float


def measurer_of(engine: Winners, file: Path) -> Callable[[Sequence[Winner]], list[Remeasured]]:
    """Returns what builds and measures winners together, all of a file scaled to one level.

    Args:
        engine: Whose programs they are.
        file: What `remeasure` writes.

    Raises:
        CorpusError: Whenever it measures, and the machine did not become steady.
    """

    @cache  # nothing is built where all has been measured
    def measurer() -> SteadyMeasurer:
        level = _level_of_winners(file)
        history = [] if level is None else [ReferenceRun(0.0, level, (), accepted=True)]
        return SteadyMeasurer(engine.device, WINNERS_MEASURED, history)

    def measure(winners: Sequence[Winner]) -> list[Remeasured]:
        results = measurer().measure([engine.input_of(winner) for winner in winners])
        level = measurer().history[0].level
        return [Remeasured(engine.device.latency(result), level) for result in results]

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
        winners: What to measure; equal programs are measured once a round.
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


def _level_of_winners(file: Path) -> float | None:
    """Latency of the reference that measurements of winners are scaled to; None if they are not."""
    return next((row["level"] for row in _rows(file) if "level" in row), None)


def _rows(file: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []
