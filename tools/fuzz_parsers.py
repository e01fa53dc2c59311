"""Coverage-guided fuzzing of what reads files: nothing but this package's own errors may come out.

    uv run --with atheris==3.0.0 python tools/fuzz_parsers.py log --seconds 600

Targets: a log, the text of a log read as arrays, a file of programs, the records and the workloads
of a MetaSchedule database, a hardware card, a checkpoint's model card, and its parameters (one of
Orbax's files replaced, and its hash in the card, too). Seeds are the project's own files. An input
that crashes, hangs for 20 s or takes 4 GiB is left in the corpus folder.
"""

import argparse
import functools
import gzip
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
import orjson

with atheris.instrument_imports(include=["cwm_jax"]):  # type: ignore[attr-defined]
    from cwm_jax.errors import CwmError
    from cwm_jax.features.batch import encode_schedules
    from cwm_jax.features.hardware import hardware_from_json, load_hardware
    from cwm_jax.features.log_text import group_text
    from cwm_jax.model.checkpoint import load_checkpoint, read_card, save_checkpoint
    from cwm_jax.model.ensemble import Ensemble
    from cwm_jax.model.world_model import ModelConfig
    from cwm_jax.records.graph import ComputeGraph, read_graphs, shape_only_graph
    from cwm_jax.records.lines import LogSummary, every_line
    from cwm_jax.records.logs import iterate_records
    from cwm_jax.records.metaschedule.database import (
        RECORDS_FILE,
        WORKLOADS_FILE,
        iterate_database,
        iterate_workloads,
    )

ROOT = Path(__file__).parents[1]
_SEED_BYTES = 1 << 15
_TRACES_PROGRAMS = ROOT / "tests/data/traces.programs.jsonl.gz"
_WORK = Path(tempfile.mkdtemp(prefix="cwm-fuzz-"))


def _log(data: bytes) -> None:
    path = _WORK / "log"
    path.write_bytes(data)
    for record in iterate_records(path, LogSummary()):
        values = encode_schedules([record.steps], shape_only_graph(record.workload_key)).values
        assert np.isfinite(values).all()


def _text(data: bytes) -> None:
    group_text(data)


def _graphs(data: bytes) -> None:
    path = _WORK / "programs"
    path.write_bytes(data)
    read_graphs(path)


def _records(data: bytes) -> None:
    graphs = _graphs_of_traces()
    keys = b"".join(orjson.dumps([key, ""]) + b"\n" for key in graphs)
    (_WORK / WORKLOADS_FILE).write_bytes(keys)
    (_WORK / RECORDS_FILE).write_bytes(data)
    for record in iterate_database(_WORK, graphs, LogSummary()):
        values = encode_schedules([record.steps], graphs[record.workload_key]).values
        assert np.isfinite(values).all()


@functools.cache
def _graphs_of_traces() -> dict[str, ComputeGraph]:
    return read_graphs(_TRACES_PROGRAMS)


def _workloads(data: bytes) -> None:
    (_WORK / WORKLOADS_FILE).write_bytes(data)
    for _ in iterate_workloads(_WORK):
        pass


def _hardware(data: bytes) -> None:
    hardware_from_json(data, "card")


def _card(data: bytes) -> None:
    (_WORK / "card.json").write_bytes(data)
    read_card(_WORK)


def _parameters(data: bytes) -> None:
    checkpoint = _WORK / "checkpoint"
    whole = _small_checkpoint()
    shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.copytree(whole, checkpoint)
    card = orjson.loads((checkpoint / "card.json").read_bytes())
    names = sorted(card["files"])
    name = names[data[0] % len(names)] if data else names[0]
    (checkpoint / name).write_bytes(data[1:])
    card["files"][name] = hashlib.sha256(data[1:]).hexdigest()
    (checkpoint / "card.json").write_bytes(orjson.dumps(card))
    load_checkpoint(checkpoint)


@functools.cache
def _small_checkpoint() -> Path:
    config = ModelConfig(latent_width=8, action_width=8, hardware_width=4, head_width=8, members=2)
    path = _WORK / "whole"
    save_checkpoint(path, Ensemble.create(config, 0), config, load_hardware("cpu-x86-2core"), {})
    return path


def _parameter_files() -> list[bytes]:
    whole = _small_checkpoint()
    names = sorted(orjson.loads((whole / "card.json").read_bytes())["files"])
    return [bytes([at]) + (whole / name).read_bytes() for at, name in enumerate(names)]


def _files(pattern: str) -> list[bytes]:
    """Files of the project, and the beginning of what is packed in them."""
    found: list[bytes] = []
    for path in sorted(ROOT.glob(pattern)):
        data = path.read_bytes()
        found.append(data)
        if data.startswith(b"\x1f\x8b"):
            found.append(gzip.decompress(data)[:_SEED_BYTES])
    return found


def _lines(name: str) -> list[bytes]:
    return [line for _, line in every_line(ROOT / name)]


def _traces() -> list[bytes]:
    """Lines of a database, made of the tests' golden traces."""
    golden = [orjson.loads(line) for line in _lines("tests/data/traces.jsonl.gz")]
    keys = list(_graphs_of_traces())
    return [
        orjson.dumps([keys.index(each["workload"]), [each["trace"], [1e-3], {"kind": "llvm"}, []]])
        for each in golden
    ]


def _log_lines() -> list[bytes]:
    """Lines of a log, plain and packed: small inputs are tried oftener."""
    lines = _lines("tests/data/measured.jsonl.gz")
    chosen = lines[:: len(lines) // 12]
    return [*chosen, *(gzip.compress(line) for line in chosen)]


_TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "log": (_log, _log_lines),
    "text": (_text, lambda: _files("tests/data/measured.jsonl.gz")[1:]),
    "programs": (_graphs, lambda: _files("tests/data/*.programs.jsonl.gz")),
    "records": (_records, _traces),
    "workloads": (_workloads, lambda: [b'["1", "module"]\n["2", "module"]\n']),
    "hardware": (_hardware, lambda: _files("cwm_jax/hardware/*.json")),
    "card": (_card, lambda: _files("checkpoints/*/card.json")),
    "parameters": (_parameters, _parameter_files),
}


def main() -> None:
    """Fuzzes one target for some seconds."""
    parser = argparse.ArgumentParser(description="Fuzzes what reads files.")
    parser.add_argument("target", choices=list(_TARGETS))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, default=Path("runs/fuzz"))
    options = parser.parse_args()
    function, seeds = _TARGETS[options.target]
    corpus = options.corpus / options.target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)

    def one_input(data: bytes) -> None:
        try:
            function(data)
        except CwmError:
            return

    limits = [f"-max_total_time={options.seconds}", "-timeout=20", "-rss_limit_mb=4096"]
    limits += ["-len_control=0"]  # whole records from the start
    atheris.Setup(
        [sys.argv[0], str(corpus), f"-artifact_prefix={corpus}/crash-", *limits], one_input
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
