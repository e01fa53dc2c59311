"""Turns a MetaSchedule database into records that training reads without TVM.

    uv run python tools/import_database.py DATABASE_FOLDER records.jsonl.gz

Writes the compute graphs beside the records.
"""

import argparse
from pathlib import Path

from cwm_jax.records.ansor_log import LogSummary, format_line
from cwm_jax.records.gzip_log import append_member
from cwm_jax.records.metaschedule_database import iterate_database
from cwm_jax.records.program import programs_path, write_programs
from cwm_jax.tvm_bridge.metaschedule.database_programs import programs_of_database
from cwm_jax.tvm_bridge.runtime import use


def main() -> None:
    """Converts, and says what was skipped."""
    parser = argparse.ArgumentParser(description="Converts a MetaSchedule database.")
    parser.add_argument("database", type=Path)
    parser.add_argument("out", type=Path, help="a new .jsonl.gz")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists")
    summary = LogSummary()
    found = list(programs_of_database(use("metaschedule"), options.database, summary))
    programs = {program.workload_key: program for program in found}
    records = iterate_database(options.database, programs, summary)
    append_member(options.out, map(format_line, records))
    write_programs(found, programs_path(options.out))
    print(f"{len(programs)} programs; {summary}")


if __name__ == "__main__":
    main()
