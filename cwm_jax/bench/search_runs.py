"""Runs of a search benchmark: its folder, one compressed file of them, and their summary.

`cwm bench search --out FOLDER` leaves several files a run. `NAME.runs.jsonl.xz` holds the same in
one file: a first line for the whole benchmark, then one line a run. TVM's own databases
(`database_*.json` of MetaSchedule) are left out: they are needed to build programs again, not to
summarise.
"""

import dataclasses
import lzma
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cwm_jax.bench.best_candidates import WINNERS_FILE, short_hash, to_winners_level
from cwm_jax.bench.search import SearchRun, plan_runs
from cwm_jax.bench.search_summary import (
    Found,
    curve_of,
    headline,
    round_seconds,
    scored_ratio,
    summarise,
)
from cwm_jax.errors import CorpusError
from cwm_jax.files import readable_json, write_atomically
from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.graph import graphs_path
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Record
from cwm_jax.search.confirmation import best_programs
from cwm_jax.tuning.machine import NOTE
from cwm_jax.tuning.measurement import reference_path
from cwm_jax.tuning.metaschedule.work_dir import SEARCH_RECORDS, line_of
from cwm_jax.tuning.registry import find_engine

FORMAT = 1
STOPS = (16, 64)
"""After so many trials the winner of a run is taken."""
_LONG_RUN_WINNERS = 5  # of a run with more trials, at its end


@dataclasses.dataclass(frozen=True)
class Run:
    """One search.

    Attributes:
        name: Stem of its files (`SearchRun.name`).
        result: JSON of `cwm tune`.
        scale: Factor that brings its latencies to the level of the winners'.
        winners: Name and latency in the search of its best programs, by number of trials.
        records: Lines of its log.
        programs: Lines of the log's programs.
        reference: Lines that tell the reference program's latencies; none if it was not measured.
    """

    name: str
    result: dict[str, Any]
    scale: float
    winners: dict[str, list[tuple[str, float]]]
    records: list[str]
    programs: list[str]
    reference: list[str]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """All runs of a folder.

    Attributes:
        name: Name of the folder.
        machine: Content of `machine.json`; None without such a file.
        remeasured: Rows of `winners.jsonl`.
        runs: Runs in the order of their names.
    """

    name: str
    machine: dict[str, Any] | None
    remeasured: list[dict[str, Any]]
    runs: list[Run]


def read_runs(source: Path) -> Benchmark:
    """Reads a folder of `cwm bench search`, or the file that `write_packed` made of one.

    Raises:
        CorpusError: There is no such folder or file, or it is damaged; names file and line.
    """
    return read_folder(source) if source.is_dir() else read_packed(source)


def read_folder(folder: Path) -> Benchmark:
    """Reads a folder of `cwm bench search`.

    Raises:
        CorpusError: A file is missing or damaged, or would not be the same after unpacking.
    """
    note, winners = folder / NOTE, folder / WINNERS_FILE
    stems = {path.stem for path in folder.glob("*.json")} - {note.stem}
    if not stems:
        raise CorpusError(f"{folder}: holds no finished search of cwm bench search")
    rows = [_json(winners, at, line) for at, line in enumerate(_text_lines(winners), start=1)]
    benchmark = Benchmark(
        folder.name,
        _json(note, 1, note.read_bytes()) if note.exists() else None,
        rows,
        [_read_run(folder, stem, winners) for stem in sorted(stems)],
    )
    for path, data in files_of(benchmark, folder).items():
        if path.read_bytes() != data:
            raise CorpusError(f"{path}: cannot be packed without loss, found another JSON layout")
    return benchmark


def write_packed(benchmark: Benchmark, file: Path) -> None:
    """Writes a benchmark; the same benchmark always gives the same bytes."""
    programs = list(dict.fromkeys(line for run in benchmark.runs for line in run.programs))
    places = {line: at for at, line in enumerate(programs)}
    head = {
        "format": FORMAT,
        "benchmark": benchmark.name,
        "machine": benchmark.machine,
        "remeasured": benchmark.remeasured,
        "programs": programs,
    }
    lines = [head]
    for run in benchmark.runs:
        fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
        lines.append({**fields, "programs": [places[line] for line in run.programs]})
    text = b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
    write_atomically(file, lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def read_packed(file: Path) -> Benchmark:
    """Reads what `write_packed` wrote.

    Raises:
        CorpusError: The file cannot be read, or a line is damaged; names file and line.
    """
    number = 0
    lines: list[dict[str, Any]] = []
    try:
        with lzma.open(file) as packed:
            for number, line in enumerate(packed, start=1):
                lines.append(_json(file, number, line))
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise CorpusError(f"{file}:{number + 1}: cannot be read ({error})") from error
    if not lines or lines[0].get("format") != FORMAT:
        found = lines[0].get("format") if lines else "an empty file"
        raise CorpusError(f"{file}:1: found format {found!r}, expected {FORMAT}")
    head = lines[0]
    try:
        programs = head["programs"]
        benchmark = Benchmark(head["benchmark"], head["machine"], head["remeasured"], [])
    except KeyError as error:
        raise CorpusError(f"{file}:1: the field {error} is missing") from error
    for number, fields in enumerate(lines[1:], start=2):
        try:
            winners = {
                trials: [(str(name), float(latency)) for name, latency in best]
                for trials, best in fields["winners"].items()
            }
            used = [programs[at] for at in fields["programs"]]
            run = Run(**{**fields, "programs": used, "winners": winners})
            if Path(run.name).name != run.name:  # it names files
                raise ValueError(f"the name {run.name!r}")
            benchmark.runs.append(run)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            expected = ", ".join(field.name for field in dataclasses.fields(Run))
            raise CorpusError(
                f"{file}:{number}: found {error!r}, expected a run with {expected}"
            ) from error
    return benchmark


def files_of(benchmark: Benchmark, folder: Path) -> dict[Path, bytes]:
    """Returns the files that a folder of this benchmark holds, and their content."""
    files: dict[Path, bytes] = {}
    if benchmark.machine is not None:
        files[folder / NOTE] = readable_json(benchmark.machine)
    if benchmark.remeasured:
        rows = (orjson.dumps(row).decode() for row in benchmark.remeasured)
        files[folder / WINNERS_FILE] = _as_text(list(rows))
    for run in benchmark.runs:
        files[folder / f"{run.name}.json"] = readable_json(run.result)
        log = _log_of(folder, run.name, run.result)
        for path, lines in (
            (log, run.records),
            (graphs_path(log), run.programs),
            (reference_path(log), run.reference),
        ):
            if lines:
                files[path] = _as_text(lines)
    return files


def aggregate(benchmark: Benchmark, like: Mapping[str, Any], rounds: int = 0) -> dict[str, Any]:
    """Summarises runs as `cwm bench search --json` does.

    Args:
        benchmark: The runs.
        like: An earlier summary; says which workloads, variants, seeds and trials are compared.
        rounds: How many measurements of each winner count; by default as many as all have.

    Returns:
        The fields of the JSON, but for the machine and the settings that it ran with.

    Raises:
        CorpusError: A run or a measurement of a winner is missing.
    """
    variants = list(like["variants"])
    stops = [int(n) for n in next(iter(like["variants"].values()))["speedup"]]
    longest = max(stops)
    by_name = {run.name: run for run in benchmark.runs}
    runs: dict[SearchRun, Run] = {}
    for plan in _planned(like, variants, stops):
        if plan.name not in by_name:
            raise CorpusError(f"{benchmark.name}: holds no run {plan.name}")
        runs[plan] = by_name[plan.name]
    found: list[Found] = []
    rows: list[dict[str, Any]] = []
    optimum: dict[str, float] = {}
    for stop in _stops(benchmark, runs, stops, rounds):
        plan, latency = stop.plan, statistics.median(stop.latencies)
        if plan.trials == longest:
            seconds = round_seconds(runs[plan].result["rounds"])
            found.append(
                Found(plan.workload, plan.variant, plan.seed, stop.trials, latency, seconds)
            )
        else:
            optimum[plan.workload] = latency
        row = {
            **dataclasses.asdict(plan),
            "folder": benchmark.name,
            "trials": stop.trials,
            "in_search": stop.in_search,
            "latency": latency,
            "spread": max(stop.latencies) / min(stop.latencies),
        }
        rows.append(row)
    curves = [
        {**dataclasses.asdict(plan), "folder": benchmark.name, **curve_of(run.result, run.scale)}
        for plan, run in runs.items()
    ]
    of_pairs = {(p.workload, p.seed): optimum[p.workload] for p in runs if p.workload in optimum}
    engine = find_engine(benchmark.runs[0].result["engine"])
    summary = summarise(found, variants, stops, of_pairs, engine.rival)
    of_longest = [curve for curve in curves if curve["trials"] == longest]
    return {
        **headline(summary, variants[0], longest, engine.rival_key or engine.rival),
        "scored_ratio_in_search": scored_ratio(of_longest, variants[0], engine.rival),
        "engine": engine.name,
        "variants": summary,
        "optimum": optimum,
        "folders": {benchmark.name: benchmark.machine},
        "rows": rows,
        "curves": curves,
    }


def _planned(
    like: Mapping[str, Any], variants: Sequence[str], stops: Sequence[int]
) -> list[SearchRun]:
    """Returns the searches that a summary compares, then the long ones."""
    rows = [row for row in like["rows"] if row["trials"] in stops]
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    names = [field.name for field in dataclasses.fields(SearchRun)]
    every = [SearchRun(**{name: curve[name] for name in names}) for curve in like["curves"]]
    long = {run.workload: run for run in every if run.trials != max(stops)}
    return [
        *plan_runs(workloads, variants, seeds, max(stops)),
        *(long[workload] for workload in like["optimum"]),
    ]


class _Stop(NamedTuple):
    """A search after some trials: its winner, and that one's latencies, in seconds."""

    plan: SearchRun
    trials: int
    in_search: float
    latencies: list[float]


def _stops(
    benchmark: Benchmark, runs: Mapping[SearchRun, Run], stops: Sequence[int], rounds: int
) -> list[_Stop]:
    measured: dict[str, dict[int, float]] = defaultdict(dict)
    for row in benchmark.remeasured:
        latency = math.inf if row["latency"] is None else row["latency"]
        measured[row["program"]][row["round"]] = latency
    taken: list[tuple[SearchRun, int, list[tuple[str, float]]]] = []
    for plan, run in runs.items():
        for trials in stops if plan.trials == max(stops) else [plan.trials]:
            if str(trials) not in run.winners:
                known = ", ".join(run.winners)
                raise CorpusError(
                    f"{run.name}: no winner after {trials} trials, only after {known}"
                )
            taken.append((plan, trials, run.winners[str(trials)]))
    names = {name for _, _, winners in taken for name, _ in winners}
    least = min(len(measured[name]) for name in names)
    if not least or rounds > least:
        raise CorpusError(
            f"{benchmark.name}: a winner was measured {least} times, expected {rounds or 1} or more"
        )
    found: list[_Stop] = []
    for plan, trials, winners in taken:
        timed = [
            ([measured[name][at] for at in range(rounds or least)], in_search)
            for name, in_search in winners
        ]
        latencies, in_search = min(timed, key=lambda pair: statistics.median(pair[0]))
        found.append(_Stop(plan, trials, runs[plan].scale * in_search, latencies))
    return found


def _read_run(folder: Path, stem: str, winners: Path) -> Run:
    file = folder / f"{stem}.json"
    result = _json(file, 1, file.read_bytes())
    log = _log_of(folder, stem, result)
    if not log.exists():
        raise CorpusError(f"{log}: is missing, but {file} names it")
    records = load_records(log, summary=LogSummary())
    trials = int(result["trials"])
    stops = [(n, 1) for n in STOPS] if trials <= STOPS[-1] else [(trials, _LONG_RUN_WINNERS)]
    best = {
        str(n): [
            (_name_of(log, record), record.latency)
            for record in best_programs(records[:n], count) or records[:1]
        ]
        for n, count in stops
    }
    return Run(
        stem,
        result,
        to_winners_level(log, winners),
        best,
        _text_lines(log),
        _text_lines(graphs_path(log)),
        _text_lines(reference_path(log)),
    )


def _log_of(folder: Path, stem: str, result: Mapping[str, Any]) -> Path:
    if find_engine(result["engine"]).in_folder:
        return folder / stem / SEARCH_RECORDS
    return folder / f"{stem}.jsonl"


def _name_of(log: Path, record: Record) -> str:
    if log.name == SEARCH_RECORDS:
        return short_hash(line_of(log.parent, record))
    return short_hash(format_line(record).encode())


def _text_lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _as_text(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _json(file: Path, number: int, line: bytes | str) -> dict[str, Any]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise CorpusError(f"{file}:{number}: expected JSON ({error})") from error
    if not isinstance(found, dict):
        raise CorpusError(f"{file}:{number}: found {str(found)[:40]!r}, expected a JSON object")
    return found
