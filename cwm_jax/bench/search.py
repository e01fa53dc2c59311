"""Search curves of several cost models, compared fairly on one machine.

Every search runs in a fresh process and models take turns, so that a drift of the machine
touches all of them; what they find is measured again together (`cwm_jax.bench.best_candidates`).
"""

import dataclasses
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.errors import CwmError
from cwm_jax.interrupts import run_child
from cwm_jax.tuning.registry import EngineDescription


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """One search of the benchmark.

    Attributes:
        workload: As for `cwm tune`.
        variant: One of `EngineDescription.variants`.
        seed: Seed of the search.
        trials: Trials to measure.
        round_size: Trials of a round.
    """

    workload: str
    variant: str
    seed: int
    trials: int
    round_size: int = 16

    @property
    def name(self) -> str:
        """Returns the stem of the run's files."""
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
    engine: EngineDescription,
    checkpoint: str,
    corpus: Path,
    folder: Path,
    reference_every: int | None = None,
) -> dict[str, Any]:
    """Runs one search in a process of its own, or returns what an earlier call finished.

    A search that was stopped goes on from its log.

    Args:
        run: The search.
        engine: The search engine; `cwm tune` finds it by its name.
        checkpoint: Checkpoint of the world model.
        corpus: Corpus that a pretrained rival learns from.
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
    variant = engine.variants[run.variant]
    command += [*variant, *([str(corpus)] if variant[-1] == "--pretrain" else [])]
    command += ["--trials", str(run.trials), "--seed", str(run.seed), "--json", str(result)]
    command += ["--engine", engine.name, "--round", str(run.round_size), "--checkpoint", checkpoint]
    command += ["--reference-every", str(reference_every)] if reference_every else []
    command += ["--resume" if log.exists() else "--log", str(log)]
    code, output, errors = run_child(command)
    if code != 0:
        raise CwmError(f"{run.name}: {errors.strip() or output.strip()}")
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


def log_of(run: SearchRun, engine: EngineDescription, folder: Path) -> Path:
    """Returns the log or folder in which a search keeps its measurements."""
    return folder / (run.name if engine.in_folder else f"{run.name}.jsonl")
