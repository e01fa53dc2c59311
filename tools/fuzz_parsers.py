"""Coverage-guided fuzzing of what reads files: nothing but this package's own errors may come out.

    uv run --with atheris==3.1.0 python tools/fuzz_parsers.py log --seconds 600

Targets: a log, the text of a log read as arrays, a file of programs, a MetaSchedule database, a
hardware card, the model card of a checkpoint. Seeds are the project's own files. A crash leaves its
input in the corpus folder.
"""

import argparse
import gzip
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import orjson

with atheris.instrument_imports(include=["cwm_jax"]):  # type: ignore[attr-defined]
    from cwm_jax.errors import CwmError
    from cwm_jax.features.hardware import hardware_from_json
    from cwm_jax.features.step_text import group_text
    from cwm_jax.features.steps import encode_schedules
    from cwm_jax.model.checkpoint import read_card
    from cwm_jax.records.ansor_log import LogSummary, iterate_records
    from cwm_jax.records.metaschedule_database import parse_trace_lines
    from cwm_jax.records.program import read_programs, shape_only_program
    from cwm_jax.records.traces import Skeletons

ROOT = Path(__file__).parents[1]
_SEED_BYTES = 1 << 15
_WORK = Path(tempfile.mkdtemp(prefix="cwm-fuzz-"))


def _log(data: bytes) -> None:
    path = _WORK / "log"
    path.write_bytes(data)
    for record in iterate_records(path, LogSummary()):
        encode_schedules([record.steps], shape_only_program(record.workload_key))


def _text(data: bytes) -> None:
    group_text(data)


def _programs(data: bytes) -> None:
    path = _WORK / "programs"
    path.write_bytes(data)
    read_programs(path)


def _database(data: bytes) -> None:
    parse_trace_lines([data], Skeletons())


def _hardware(data: bytes) -> None:
    hardware_from_json(data, "card")


def _card(data: bytes) -> None:
    (_WORK / "card.json").write_bytes(data)
    read_card(_WORK)


def _files(pattern: str) -> list[bytes]:
    """Files of the project, and the beginning of what is packed in them."""
    found: list[bytes] = []
    for path in sorted(ROOT.glob(pattern)):
        data = path.read_bytes()
        found.append(data)
        if data.startswith(b"\x1f\x8b"):
            found.append(gzip.decompress(data)[:_SEED_BYTES])
    return found


def _traces() -> list[bytes]:
    """Lines of a database, made of the tests' golden traces."""
    lines = gzip.decompress((ROOT / "tests/data/traces.jsonl.gz").read_bytes()).splitlines()
    traces = [orjson.loads(line)["trace"] for line in lines[:20]]
    return [orjson.dumps([0, [trace, [1e-3], {"kind": "llvm"}, []]]) for trace in traces]


_LOGS = "tests/data/measured.jsonl.gz"
_TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "log": (_log, lambda: _files(_LOGS)),
    "text": (_text, lambda: _files(_LOGS)[1:]),
    "programs": (_programs, lambda: _files("tests/data/*.programs.jsonl.gz")),
    "database": (_database, _traces),
    "hardware": (_hardware, lambda: _files("cwm_jax/hardware/*.json")),
    "card": (_card, lambda: _files("checkpoints/*/card.json")),
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
    atheris.Setup(
        [sys.argv[0], str(corpus), f"-artifact_prefix={corpus}/crash-", *limits], one_input
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
