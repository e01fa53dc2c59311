"""Functions that cannot be read, or whose schedules cannot: each is said once, and none ends a run.

TVM tunes more than this package can describe. What a function computes is then left out, and its
schedules are ranked by what their traces say alone.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cwm_jax.errors import CwmError, GraphError, last_line
from cwm_jax.records.graph import ComputeGraph, shape_only_graph
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.metaschedule.database import iterate_workloads
from cwm_jax.tvm_bridge.metaschedule.tir import graph_of_module, name_of_function

_names: dict[str, str] = {}
"""By workload key: what to call the function."""
_said: set[tuple[str, str]] = set()
"""Keys of the functions that were warned of, and what was said to follow."""

_BY_TRACE = "its schedules are ranked by what their traces say alone"
_NOT_AT_ALL = "they are measured in no order of preference"
_UNTUNED = "it stays as it is"
_NOTHING_LEARNED = "nothing is learned from that"


class UnreadWarning(UserWarning):
    """A function is ranked worse than others, for it cannot be read in whole."""


def read_graph(tvm: Any, module: Any, workload_key: str, name: str | None = None) -> ComputeGraph:
    """Returns the compute graph of a module; one without a graph where it cannot be read.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function.
        workload_key: Names the workload.
        name: Name of the function for messages; by default its own.

    Warns:
        UnreadWarning: It cannot be read.
    """
    _names.setdefault(workload_key, name or name_of_function(module))
    try:
        return graph_of_module(tvm, module, workload_key)
    except GraphError as error:
        _warn(workload_key, str(error), _BY_TRACE)
        return shape_only_graph(workload_key)


def warn_of_traces(graph: ComputeGraph, error: Exception) -> None:
    """Warns that a trace of a function cannot be followed."""
    _warn(graph.workload_key, f"a schedule of it cannot be followed, {error}", _BY_TRACE)


def warn_of_ranking(workload_key: str, error: Exception) -> None:
    """Warns that ranking the schedules of a function has failed."""
    reason = f"{type(error).__name__}: {error}"
    _warn(workload_key, f"its schedules cannot be ranked, {reason}", _NOT_AT_ALL)


def warn_of_search(workload_key: str, error: Exception) -> None:
    """Warns that TVM cannot search for schedules of a function.

    Raises:
        CwmError: The error is no matter of the function.
        OSError: As for `CwmError`.
    """
    if isinstance(error, (CwmError, OSError, MemoryError)):
        raise error
    _warn(workload_key, f"TVM's search of it failed, {last_line(error)}", _UNTUNED)


def warn_of_failures(workload_key: str, errors: Sequence[str]) -> None:
    """Warns that none of the candidates measured for a function ran.

    Args:
        workload_key: Key of the function.
        errors: What was said of each; TVM's own callback tells nothing of failures.
    """
    if errors:
        said, count = Counter(errors).most_common(1)[0]
        failed = f"all {len(errors)} candidates failed, {count} of them by: {said or 'no reason'}"
    else:
        failed = "no candidate could be built and run (TVM writes why to `logs` in its work_dir)"
    _warn(workload_key, failed, _NOTHING_LEARNED)


def _warn(workload_key: str, reason: str, consequence: str) -> None:
    """Warns once for each function and consequence."""
    if (workload_key, consequence) not in _said:
        _said.add((workload_key, consequence))
        name = _names.get(workload_key, f"workload {workload_key[:80]}")
        warnings.warn(f"{name}: {reason}; {consequence}", UnreadWarning, stacklevel=3)


def graphs_of_database(tvm: Any, folder: Path, summary: LogSummary) -> Iterator[ComputeGraph]:
    """Converts a database's modules; counts those that cannot be read.

    Args:
        tvm: A TVM with MetaSchedule.
        folder: Folder of the database.
        summary: Counts what is skipped.

    Raises:
        RecordError: The folder holds no database.
    """
    workloads = tvm.s_tir.meta_schedule.database.Workload
    for where, key, module in iterate_workloads(folder):
        try:
            yield graph_of_module(tvm, workloads.from_json([key, module]).mod, key)
        except GraphError as error:
            summary.skip(f"{where}: {error}")
        except (tvm.error.InternalError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [""])[-1]
            summary.skip(f"{where}: not a module of this TVM ({reason})")
