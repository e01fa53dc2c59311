"""One MetaSchedule search on this machine: rounds of search and measurement, resumable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cwm_jax.errors import CwmError, WorkloadError, last_line
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.tuning.loop import (
    Round,
    Searched,
    SearchResult,
    TaskRound,
    search_in_rounds,
)
from cwm_jax.tuning.metaschedule.rounds import FoundRound, ModuleSearch
from cwm_jax.tuning.metaschedule.session import search_session
from cwm_jax.tuning.metaschedule.settings import SearchConfig
from cwm_jax.tuning.metaschedule.work_dir import SearchFolder, Task
from cwm_jax.tvm_bridge.metaschedule.graphs import read_graph
from cwm_jax.tvm_bridge.metaschedule.tir import name_of_function


def tune_module(
    tvm: Any,
    module: Any,
    target: Any,
    config: SearchConfig,
    folder: Path,
    *,
    scorer: Scorer | None = None,
    report: Callable[[Round], None] = lambda _: None,
) -> SearchResult:
    """Searches for a fast schedule of a module with MetaSchedule's evolutionary search.

    Args:
        tvm: A TVM with MetaSchedule.
        module: `tvm.IRModule` of one function, `main`.
        target: TVM target with `num-cores`.
        config: Settings.
        folder: Where the search lives; goes on with the trials that it holds.
        scorer: Checkpoint of the world model, if that is the cost model.
        report: Called after every round.

    Raises:
        RecordError: The folder holds another search, or was measured otherwise.
        TargetError: The settings ask for references on another device than this CPU.
        WorkloadError: TVM finds no design space for the module.
    """
    from cwm_jax.tvm_bridge.metaschedule.cost_model import workload_key

    graph = read_graph(tvm, module, workload_key(module))
    files = SearchFolder(tvm, folder)
    records = files.earlier([Task(module, graph)], target)
    latencies = [record.latency for record in records]

    def kept(found: FoundRound) -> TaskRound:
        records.extend(found.records)
        return found.told()

    with search_session(tvm, target, config, files, scorer) as session:
        try:
            search = ModuleSearch(session, module, graph, records)
        except (CwmError, OSError):
            raise
        except Exception as error:  # TVM raises what its rules meet
            name = name_of_function(module)
            raise WorkloadError(f"{name}: TVM cannot tune it ({last_line(error)})") from error
        searched = Searched(
            graph.workload_key,
            str(target),
            graph.flop,
            lambda count: kept(search.next_round(count)),
            lambda again: kept(search.again(again)),
            lambda: records,
        )
        result = search_in_rounds(searched, config, latencies, report)
    search.finish()
    return result
