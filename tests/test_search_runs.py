"""Packed searches: the same summary as of their folder, and errors that name file and line."""

import lzma

import orjson
import pytest
from pack_searches import unpack
from summarise_searches import by_machine, load, paces, table

from cwm_jax.bench.best_candidates import short_hash
from cwm_jax.bench.search import plan_runs
from cwm_jax.bench.search_runs import (
    aggregate,
    files_of,
    read_folder,
    read_packed,
    read_runs,
    write_packed,
)
from cwm_jax.errors import CorpusError, CwmError
from cwm_jax.files import readable_json
from cwm_jax.records.ansor_log import append_records, format_line
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.search.confirmation import best_programs

VARIANTS = ("world-model", "xgboost")
WORKLOAD = "matmul:64,64,64"
REMEASURED = {"world-model": 1e-3, "xgboost": 2e-3}


@pytest.fixture
def folder(tmp_path, measured_log):
    """What `cwm bench search` leaves of two searches, and a summary that asks for them."""
    out = tmp_path / "searches"
    out.mkdir()
    records = load_records(measured_log, summary=LogSummary(), valid_only=True)
    of_one = [record for record in records if record.workload_key == records[0].workload_key]
    rows, curves = [], []
    for at, run in enumerate(plan_runs([WORKLOAD], VARIANTS, [0], 64)):
        mine = of_one[4 * at : 4 * at + 4]
        append_records(out / f"{run.name}.jsonl", mine)
        level = {"time": 0.0, "level": 1.0, "latencies": [1.0], "accepted": True, "kept": 4}
        (out / f"{run.name}.reference.jsonl").write_bytes(orjson.dumps(level) + b"\n")
        seconds = {"search_seconds": 1.0, "model_seconds": 1.0, "measure_seconds": 1.0 + at}
        result = {
            "engine": "ansor",
            "trials": 64,
            "latencies": [record.latency for record in mine],
            "rounds": [{"trials": 4, **seconds}],
        }
        (out / f"{run.name}.json").write_bytes(readable_json(result))
        name = short_hash(format_line(best_programs(mine, 1)[0]).encode())
        latency = REMEASURED[run.variant]
        with (out / "winners.jsonl").open("ab") as winners:
            for number in range(3):
                row = {"program": name, "round": number, "latency": latency, "level": 2.0}
                winners.write(orjson.dumps(row) + b"\n")
        known = {"workload": WORKLOAD, "variant": run.variant, "seed": 0, "round_size": 16}
        rows += [{**known, "trials": trials} for trials in (16, 64)]
        curves.append({**known, "trials": 64})
    like = {
        "variants": {name: {"speedup": {"16": None, "64": None}} for name in VARIANTS},
        "optimum": {},
        "rows": rows,
        "curves": curves,
    }
    (tmp_path / "searches.json").write_bytes(orjson.dumps(like))
    return out


@pytest.fixture
def packed(folder):
    file = folder.with_name("searches.runs.jsonl.xz")
    write_packed(read_folder(folder), file)
    return file


def test_a_packed_file_gives_the_summary_of_its_folder(folder, packed):
    raw, ours = load(folder), load(packed)
    assert orjson.dumps(raw) == orjson.dumps(ours)
    for lines in (table, by_machine, paces):
        assert lines(raw) == lines(ours)
    assert ours["geomean_vs_xgboost_64"] == pytest.approx(2.0)
    told = orjson.loads((folder / "matmul-64x64x64-xgboost-0-64.json").read_bytes())
    best = {curve["variant"]: curve["best"][-1] for curve in ours["curves"]}
    assert best["xgboost"] == 2.0 * min(told["latencies"])  # scaled to the winners' level


def test_packing_is_deterministic_and_without_loss(folder, packed, tmp_path):
    before = packed.read_bytes()
    write_packed(read_packed(packed), packed)
    assert packed.read_bytes() == before
    again = tmp_path / "again"
    unpack(files_of(read_packed(packed), again), again)
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(CwmError, match="is not empty"):
        unpack(files_of(read_packed(packed), again), again)


def test_a_file_that_would_change_is_not_packed(folder):
    file = folder / "matmul-64x64x64-xgboost-0-64.json"
    file.write_bytes(orjson.dumps(orjson.loads(file.read_bytes())))
    with pytest.raises(CorpusError, match=f"{file.name}: cannot be packed without loss"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [*lines[:2], lines[2][:-20]], ":3: expected JSON"),
        (lambda lines: [*lines[:2], b'{"name": "x"}'], ":3: found KeyError"),
        (lambda lines: [*lines[:2], lines[2].replace(b'"name":"', b'"name":"../')], ":3: found"),
        (lambda lines: [*lines[:2], b"[]"], ":3: found '\\[\\]'"),
        (lambda lines: lines[1:], ":1: found format None, expected 1"),
        (lambda lines: [b'{"format": 1}'], ":1: the field 'programs' is missing"),
        (lambda lines: [], ":1: found format 'an empty file'"),
    ],
)
def test_a_damaged_line_is_named(packed, damage, said):
    lines = damage(lzma.decompress(packed.read_bytes()).splitlines())
    packed.write_bytes(lzma.compress(b"\n".join(lines)))
    with pytest.raises(CorpusError, match=packed.name + said):
        read_runs(packed)


def test_a_file_that_was_cut_off_is_named(packed):
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(CorpusError, match=packed.name + r":\d+: cannot be read"):
        read_runs(packed)
    with pytest.raises(CorpusError, match="nothing:1: cannot be read"):
        read_runs(packed.with_name("nothing"))


def test_a_missing_run_or_measurement_is_named(folder):
    like = orjson.loads(folder.with_name("searches.json").read_bytes())
    with pytest.raises(CorpusError, match="measured 3 times, expected 4 or more"):
        aggregate(read_folder(folder), like, rounds=4)
    for path in folder.glob("*-xgboost-0-64.*"):
        path.unlink()
    with pytest.raises(CorpusError, match="holds no run matmul-64x64x64-xgboost-0-64"):
        aggregate(read_folder(folder), like)
