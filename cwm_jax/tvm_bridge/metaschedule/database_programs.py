"""The programs of a MetaSchedule database, so that reading its records needs no TVM."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cwm_jax.errors import ProgramError
from cwm_jax.records.ansor_log import LogSummary
from cwm_jax.records.graph import Program
from cwm_jax.records.metaschedule.database import iterate_workloads
from cwm_jax.tvm_bridge.metaschedule.tir import program_of_module


def programs_of_database(tvm: Any, folder: Path, summary: LogSummary) -> Iterator[Program]:
    """Converts a database's modules; counts those that cannot be read.

    Args:
        tvm: A TVM with MetaSchedule.
        folder: Of the database.
        summary: Counts what is skipped.

    Raises:
        RecordError: The folder holds no database.
    """
    workloads = tvm.s_tir.meta_schedule.database.Workload
    for where, key, module in iterate_workloads(folder):
        try:
            yield program_of_module(tvm, workloads.from_json([key, module]).mod, key)
        except ProgramError as error:
            summary.skip(f"{where}: {error}")
        except (tvm.error.InternalError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [""])[-1]
            summary.skip(f"{where}: not a module of this TVM ({reason})")
