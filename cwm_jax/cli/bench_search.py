"""`cwm bench search`: what each way to search finds, for the same number of trials."""

import argparse
import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from cwm_jax.bench.search_summary import (
    Found,
    curve_of,
    headline,
    round_seconds,
    scored_ratio,
    summarise,
)
from cwm_jax.cli.common import (
    ENGINE_HELP,
    LIKEST,
    add_json_option,
    checkpoint_of,
    lock_output,
    open_console,
    open_progress,
    output_path,
    positive,
    seed,
    write_json,
)
from cwm_jax.cli.search_table import print_table
from cwm_jax.errors import CwmError
from cwm_jax.files import Output, check_outputs
from cwm_jax.interrupts import note_kept
from cwm_jax.tuning.machine import (
    NOTE,
    describe_machine,
    machine_identity,
    machine_of,
    note_machine,
)
from cwm_jax.tuning.registry import ENGINES, EngineDescription, find_engine
from cwm_jax.workloads.parse import parse_workload

if TYPE_CHECKING:
    from cwm_jax.bench.best_candidates import Remeasured, Winner
    from cwm_jax.bench.search import SearchRun
    from cwm_jax.tuning.engine import Engine

_WORKLOADS = ("matmul:512,512,512", "conv2d:1,48,48,96,96,3,1,1", "conv2d:1,20,20,320,160,1,1,0")
_REFERENCE_ROUND = 64  # Ansor's own default; a search of 64 trials would learn nothing by it
_REFERENCE_BEST = 5  # of a long search, each measured but once, count


def add_search_parser(kinds: Any) -> None:
    """Adds the subcommand of `cwm bench`."""
    corpora = [str(engine.corpus) for engine in ENGINES.values()]
    search = kinds.add_parser(
        "search",
        help="latency found for a number of trials, by way of searching",
        description="Runs searches in turn, each in a fresh process, then measures the winners "
        "again together. What is finished in --out is not run again. Run nothing beside it.",
    )
    search.add_argument("--workloads", nargs="+", default=list(_WORKLOADS))
    search.add_argument("--engine", default="ansor", help=ENGINE_HELP)
    search.add_argument(
        "--variants",
        nargs="+",
        help="ways to search, the first one against the others (default: world-model and the "
        "engine's own model, xgboost)",
    )
    search.add_argument("--seeds", nargs="+", type=seed, default=[0, 1, 2])
    search.add_argument("--trials", nargs="+", type=positive, default=[16, 64])
    search.add_argument(
        "--reference",
        nargs="*",
        default=[],
        metavar="WORKLOAD",
        help="workloads whose headroom is measured by a long search with XGBoost, each program "
        f"measured once; the best {_REFERENCE_BEST} are measured again with the winners",
    )
    search.add_argument("--reference-trials", type=positive, default=1000)
    search.add_argument(
        "--with",
        dest="others",
        nargs="*",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="what other machines measured: the workloads and seeds that are finished in one of "
        "these folders are not searched here, but count",
    )
    search.add_argument("--checkpoint", help=f"(default: {LIKEST})")
    search.add_argument(
        "--corpus",
        type=Path,
        help="what xgboost-pretrained and mlp learn from; for mlp also a file of "
        "tools/pretrain_mlp.py (default: " + ", ".join(corpora) + ")",
    )
    search.add_argument(
        "--reference-every",
        type=positive,
        metavar="N",
        help="as for cwm tune, in all searches but the long ones; winners are always measured so",
    )
    search.add_argument(
        "--throughput",
        type=Path,
        metavar="FILE",
        help="JSON of cwm bench throughput, whose predict_speedup the --json repeats",
    )
    search.add_argument("--rounds", type=positive, default=5, help="final measurements (5)")
    search.add_argument("--out", type=output_path("--out"), default=Path("runs/bench-search"))
    add_json_option(search)
    search.set_defaults(run=run_search_benchmark)


@dataclasses.dataclass(frozen=True)
class _Stop:
    """A search after some trials.

    Attributes:
        run: The search.
        trials: After how many.
        winners: Its best programs then.
    """

    run: "SearchRun"
    trials: int
    winners: "list[Winner]"


@dataclasses.dataclass(frozen=True)
class _Measured:
    """All searches, finished, and what was measured of their winners.

    Attributes:
        folders: Where each search is kept.
        results: JSON of `cwm tune` for each.
        stops: After so many trials.
        latencies: Latencies of the winners, by folder and winner's name, round by round.
        scales: What brings a search's latencies to the level of its winners'.
    """

    folders: "Mapping[SearchRun, Path]"
    results: "Mapping[SearchRun, dict[str, Any]]"
    stops: Sequence[_Stop]
    latencies: Mapping[tuple[Path, str], list[float]]
    scales: "Mapping[SearchRun, float]"


class _Findings(NamedTuple):
    """What the searches found, measured again.

    Attributes:
        found: Outcomes of the searches that are compared.
        optimum: Latency of a long search, by folder and workload.
        rows: Rows of the JSON.
    """

    found: list[Found]
    optimum: dict[tuple[Path, str], float]
    rows: list[dict[str, Any]]


def run_search_benchmark(options: argparse.Namespace) -> int:
    """Runs the searches, measures the winners, prints the table."""
    from cwm_jax.bench import search as benchmark

    engine = find_engine(options.engine)
    options.variants = options.variants or ["world-model", engine.rival]
    missing = [name for name in options.variants if name not in engine.variants]
    if missing:
        raise CwmError(
            f"--variants: {', '.join(missing)} is not a way to search {options.engine}, expected "
            f"some of {', '.join(engine.variants)}"
        )
    speedups = _predict_speedups(options.throughput)
    check_outputs(Output("--out", options.out, folder=True), Output("--json", options.json))
    lock_output(options, options.out, folder=True)
    console = open_console()
    workloads = [parse_workload(text) for text in [*options.workloads, *options.reference]]
    loaded = engine.load(None, False)
    for workload in workloads:
        loaded.tasks(workload)  # what measures its programs knows it from here on
    options.out.mkdir(parents=True, exist_ok=True)
    note_machine(options.out / NOTE, machine_identity(loaded.target))
    checkpoint = checkpoint_of(options)
    longest = max(options.trials)
    runs = benchmark.plan_runs(options.workloads, options.variants, options.seeds, longest)
    runs += [
        benchmark.SearchRun(workload, engine.rival, 0, options.reference_trials, _REFERENCE_ROUND)
        for workload in options.reference
    ]
    folders = benchmark.folders_of(runs, options.out, options.others)
    measured = _run_all(folders, engine, loaded, checkpoint, options, console)
    found, optimum, rows = _findings(measured, options)
    curves = [
        {
            **dataclasses.asdict(run),
            "folder": folders[run].name,
            **curve_of(results, measured.scales[run]),
        }
        for run, results in measured.results.items()
    ]
    of_pairs = {
        (run.workload, run.seed): optimum[folder, run.workload]
        for run, folder in folders.items()
        if (folder, run.workload) in optimum
    }
    summary = summarise(found, options.variants, options.trials, of_pairs, engine.rival)
    print_table(console, found, summary, options, engine.rival)
    write_json(
        options.json,
        {
            **headline(summary, options.variants[0], longest, engine.rival_key or engine.rival),
            "predict_speedup": speedups,
            "scored_ratio_in_search": scored_ratio(
                [curve for curve in curves if curve["trials"] == longest],
                options.variants[0],
                engine.rival,
            ),
            "machine": describe_machine(),
            "engine": options.engine,
            "target": loaded.target,
            "checkpoint": checkpoint,
            "reference_every": options.reference_every,
            "variants": summary,
            "optimum": {workload: latency for (_, workload), latency in optimum.items()},
            "folders": {
                folder.name: machine_of(folder / NOTE) for folder in dict.fromkeys(folders.values())
            },
            "rows": rows,
            "curves": curves,
        },
    )
    return 0


def _predict_speedups(file: Path | None) -> dict[str, float] | None:
    """Reads the figures of `cwm bench throughput`, by candidates a call."""
    if file is None:
        return None
    try:
        return orjson.loads(file.read_bytes())["predict_speedup"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CwmError(f"{file}: expected the JSON of cwm bench throughput ({error!r})") from error


def _run_all(
    folders: "Mapping[SearchRun, Path]",
    engine: EngineDescription,
    loaded: "Engine",
    checkpoint: str,
    options: argparse.Namespace,
    console: Console,
) -> _Measured:
    """Runs and measures what is not finished."""
    from cwm_jax.bench.best_candidates import WINNERS_FILE, best_candidates, to_winners_level
    from cwm_jax.bench.search import log_of

    logs = {run: log_of(run, engine, folder) for run, folder in folders.items()}
    columns = BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    kept = f"finished searches and rounds are in {options.out}, the same command goes on"
    with note_kept(lambda: kept), open_progress(console, *columns) as progress:
        results = _search(folders, engine, checkpoint, options, progress)
        stops = [
            _Stop(run, trials, best_candidates(loaded, logs[run], trials, count))
            for run in folders
            for trials, count in (
                [(trials, 1) for trials in options.trials]
                if _is_compared(run, options)
                else [(run.trials, _REFERENCE_BEST)]
            )
        ]
        latencies = _measure(stops, folders, loaded, options, progress)
    scales = {
        run: to_winners_level(loaded.records_file(logs[run]), folder / WINNERS_FILE)
        for run, folder in folders.items()
    }
    return _Measured(folders, results, stops, latencies, scales)


def _findings(measured: _Measured, options: argparse.Namespace) -> _Findings:
    """Takes the fastest winner of each stop, by the median of its rounds."""
    findings = _Findings([], {}, [])
    for stop in measured.stops:
        run, folder = stop.run, measured.folders[stop.run]
        winner, rounds = min(
            ((winner, measured.latencies[folder, winner.name]) for winner in stop.winners),
            key=lambda pair: statistics.median(pair[1]),
        )
        latency = statistics.median(rounds)
        if _is_compared(run, options):
            seconds = round_seconds(measured.results[run]["rounds"])
            findings.found.append(
                Found(run.workload, run.variant, run.seed, stop.trials, latency, seconds)
            )
        else:
            findings.optimum[folder, run.workload] = latency
        findings.rows.append(
            {
                **dataclasses.asdict(run),
                "folder": folder.name,
                "trials": stop.trials,
                "in_search": measured.scales[run] * winner.latency,
                "latency": latency,
                "spread": max(rounds) / min(rounds),
            }
        )
    return findings


def _is_compared(run: "SearchRun", options: argparse.Namespace) -> bool:
    """Whether a search is one of those that are compared; else it is a long one."""
    return run.trials == max(options.trials)


def _search(
    folders: "Mapping[SearchRun, Path]",
    engine: EngineDescription,
    checkpoint: str,
    options: argparse.Namespace,
    progress: Progress,
) -> "dict[SearchRun, dict[str, Any]]":
    """Runs what is not finished; returns the JSON of `cwm tune` for each."""
    from cwm_jax.bench.search import run_search

    bar = progress.add_task("searching", total=len(folders))
    corpus = options.corpus or engine.corpus or Path()
    results: dict[SearchRun, dict[str, Any]] = {}
    for run, folder in folders.items():
        progress.update(bar, description=run.name)
        every = options.reference_every if _is_compared(run, options) else None
        results[run] = run_search(run, engine, checkpoint, corpus, folder, every)
        progress.advance(bar)
    return results


def _measure(
    stops: Sequence[_Stop],
    folders: "Mapping[SearchRun, Path]",
    engine: "Engine",
    options: argparse.Namespace,
    progress: Progress,
) -> dict[tuple[Path, str], list[float]]:
    """Measures this machine's winners; returns all latencies by folder and winner's name."""
    from cwm_jax.bench.best_candidates import WINNERS_FILE, measurer_of, remeasure

    by_folder: dict[Path, list[Winner]] = defaultdict(list)
    for stop in stops:
        by_folder[folders[stop.run]] += stop.winners
    own = {winner.name for winner in by_folder[options.out]}
    bar = progress.add_task("measuring the winners", total=options.rounds * len(own))
    latencies: dict[tuple[Path, str], list[float]] = {}
    for folder, winners in by_folder.items():
        file = folder / WINNERS_FILE
        mine = folder == options.out
        measured = remeasure(
            winners,
            measurer_of(engine, file) if mine else _refuse_to_measure(folder),
            options.rounds,
            file,
            lambda count: progress.update(bar, completed=count),
        )
        for winner, rounds in zip(winners, measured, strict=True):
            latencies[folder, winner.name] = rounds
    return latencies


def _refuse_to_measure(folder: Path) -> "Callable[[Sequence[Winner]], list[Remeasured]]":
    def refuse(winners: "Sequence[Winner]") -> "list[Remeasured]":
        raise CwmError(
            f"{folder}: winner {winners[0].name} was not measured in as many rounds there; finish "
            "it on its own machine, or ask for fewer --rounds"
        )

    return refuse
