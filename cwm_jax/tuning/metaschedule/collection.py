"""MetaSchedule's part in collecting a corpus."""

from collections.abc import Sequence
from typing import Any

import orjson

from cwm_jax.errors import CorpusError
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.graph import ComputeGraph
from cwm_jax.records.lines import LogSummary, append_member, read_lines
from cwm_jax.records.logs import iterate_records
from cwm_jax.records.record import Record
from cwm_jax.tuning.collection import Drawn, mix_of_round
from cwm_jax.tuning.corpus import Corpus, CorpusTask
from cwm_jax.tuning.metaschedule.candidates import draw_candidates
from cwm_jax.tuning.metaschedule.cost_models import update_of, valid_traces
from cwm_jax.tuning.metaschedule.relax import extract_modules, relax_module
from cwm_jax.tuning.metaschedule.targets import create_module
from cwm_jax.tvm_bridge.metaschedule.graphs import read_graph, warn_of_search
from cwm_jax.tvm_bridge.metaschedule.tir import flop_of_module
from cwm_jax.tvm_bridge.metaschedule.traces import Entry, database_lines, record_of_result
from cwm_jax.workloads.networks import Network
from cwm_jax.workloads.parse import Subgraph, Workload


class ModuleTasks:
    """MetaSchedule's tasks.

    Args:
        tvm: A TVM with MetaSchedule.
        target: `tvm.target.Target`.
    """

    def __init__(self, tvm: Any, target: Any) -> None:
        self._tvm, self._target = tvm, target

    def network_tasks(self, network: Network) -> list[tuple[CorpusTask, int]]:
        """Returns the tasks of a network, and how often each occurs in it."""
        found = extract_modules(
            self._tvm, relax_module(self._tvm, network, self._target), self._target
        )
        return [(self._corpus_task(module), weight) for module, weight in found]

    def workload_task(self, workload: Workload | Subgraph) -> CorpusTask:
        """Returns the task of a workload."""
        return self._corpus_task(create_module(self._tvm, workload, self._target))

    def _corpus_task(self, module: Any) -> CorpusTask:
        from cwm_jax.tvm_bridge.metaschedule.cost_model import workload_key

        return CorpusTask(
            workload_key=workload_key(module),
            target=str(self._target),
            layout_rewrite=0,
            flop=flop_of_module(self._tvm, module),
            tensors=str(self._tvm.ir.save_json(module)),
            occurrences={},
        )


class MetaScheduleCollector:
    """Draws MetaSchedule's candidates, and keeps their traces and what they mean as steps.

    `traces.jsonl.gz` holds the records as TVM's database has them, but for the workload's hash in
    place of its number, so that they can be read again when this package learns to say more.

    Args:
        tvm: A TVM with MetaSchedule.
        target: `tvm.target.Target`.
        scorer: The world model that guides, if any.
    """

    def __init__(self, tvm: Any, target: Any, scorer: Scorer | None) -> None:
        self._tvm, self._target, self._scorer = tvm, target, scorer

    def _module(self, task: CorpusTask) -> Any:
        return self._tvm.ir.load_json(task.tensors)

    def graph(self, task: CorpusTask) -> ComputeGraph:
        """Returns the compute graph of a task."""
        return read_graph(self._tvm, self._module(task), task.workload_key)

    def draw(self, corpus: Corpus, task: CorpusTask, size: int, seed: int, earlier: int) -> Drawn:
        """Draws new candidates of a task; fewer than asked for where there are no more."""
        module, graph = self._module(task), self.graph(task)
        known: set[Any] = set()
        if earlier:
            for record in iterate_records(corpus.records, LogSummary()):
                if record.workload_key == task.workload_key:
                    known.add(record.steps)
        mix = mix_of_round(earlier, size, guided=self._scorer is not None, boosted=True)
        key = task.workload_key
        try:
            found = draw_candidates(
                self._tvm,
                module,
                graph,
                self._target,
                mix,
                seed,
                scorer=self._scorer,
                known=known,
                traces=valid_traces(corpus, {key})[key] if earlier else (),
            )
        except Exception as error:  # whatever TVM meets in one, the other tasks are measured
            warn_of_search(key, error)
            found = {}
        inputs = list(found.values())

        def keep(results: Sequence[Any]) -> None:
            records = [
                record_of_result(graph, self._target, schedule, result)
                for schedule, result in zip(found, results, strict=True)
            ]
            entries = [
                Entry(candidate.sch.trace, record.costs, candidate.args_info)
                for candidate, record in zip(inputs, records, strict=True)
            ]
            lines = database_lines(self._tvm, module, self._target, entries)
            key = orjson.dumps(task.workload_key).decode()
            append_member(
                corpus.traces,
                (f"[{key},{line.decode().partition(',')[2]}" for line in lines),
            )
            append_member(corpus.records, map(format_line, records))

        return Drawn(inputs, keep)

    def again(self, corpus: Corpus, records: Sequence[tuple[CorpusTask, Record]]) -> Drawn:
        """Returns recorded candidates; their results are kept as measured again.

        Raises:
            CorpusError: The trace of a record is missing.
        """
        # A record is known by what was measured: its trace may mean other steps by now, when this
        # package tells better what traces mean.
        wanted = {(record.workload_key, record.costs) for _, record in records}
        graphs = {task.workload_key: self.graph(task) for task, _ in records}
        traces: dict[Any, Any] = {}
        for _, line in read_lines(corpus.traces, LogSummary().skip):
            key, found = orjson.loads(line)
            if (key, tuple(found[1])) in wanted:
                traces[key, tuple(found[1])] = found
        inputs = []
        for task, record in records:
            found = traces.get((task.workload_key, record.costs))
            if found is None:
                raise CorpusError(f"{corpus.traces}: holds no trace of {task.workload_key}")
            inputs += update_of(self._tvm, self._module(task), self._target, [found]).candidates

        def keep(results: Sequence[Any]) -> None:
            again = [
                record_of_result(graphs[task.workload_key], self._target, record.steps, result)
                for (task, record), result in zip(records, results, strict=True)
            ]
            append_member(corpus.remeasured, map(format_line, again))

        return Drawn(inputs, keep)

    def error(self, result: Any) -> str:
        """Returns what went wrong with a candidate, "" if nothing did."""
        return "" if result.error_msg is None else str(result.error_msg).strip().splitlines()[-1]
