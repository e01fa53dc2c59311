"""Parses whole logs and reports counts, what was skipped, the rate, and the round trip.

uv run python tools/parse_logs.py LOG [LOG ...]
"""

import argparse
import time
from pathlib import Path

from cwm_jax.records.ansor_log import format_line, parse_line
from cwm_jax.records.lines import LogSummary, every_line
from cwm_jax.records.logs import iterate_records


def main() -> None:
    """Prints a row a log."""
    parser = argparse.ArgumentParser(description="Parses logs and reports what they hold.")
    parser.add_argument("logs", nargs="+", type=Path)
    options = parser.parse_args()
    total = LogSummary()
    seconds = 0.0
    for log in options.logs:
        summary = LogSummary()
        started = time.perf_counter()
        for _ in iterate_records(log, summary):
            pass
        elapsed = time.perf_counter() - started
        changed = _changed_by_round_trip(log)
        print(
            f"{log.name}: {summary}; {summary.records / elapsed:,.0f} records/s; "
            f"{changed} lines are not written back byte for byte"
        )
        seconds += elapsed
        total.records += summary.records
        total.valid += summary.valid
        total.skipped += summary.skipped
    print(f"all: {total}; {total.records / seconds:,.0f} records/s")


def _changed_by_round_trip(log: Path) -> int:
    lines = [line.decode().rstrip("\n") for _, line in every_line(log)]
    return sum(format_line(parse_line(line)) != line for line in lines)


if __name__ == "__main__":
    main()
