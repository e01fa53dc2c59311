"""Ansor's part in collecting a corpus."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import LogSummary, format_line, iterate_records
from cwm_jax.records.graph import Program
from cwm_jax.records.gzip_log import append_member
from cwm_jax.records.record import Record
from cwm_jax.tuning.collection import Drawn
from cwm_jax.tuning.corpus import Corpus
from cwm_jax.tvm_bridge.ansor.candidates import draw_candidates
from cwm_jax.tvm_bridge.ansor.graphs import program_of_task
from cwm_jax.tvm_bridge.ansor.states import first_error
from cwm_jax.tvm_bridge.ansor.tasks import search_task
from cwm_jax.tvm_bridge.corpus_tasks import CorpusTask
from cwm_jax.tvm_bridge.mix import mix_of_round


class AnsorCollector:
    """Draws Ansor's candidates and keeps them as Ansor's log.

    Args:
        tvm: A TVM with Ansor.
        scorer: The world model that guides, if any.
    """

    def __init__(self, tvm: Any, scorer: Scorer | None) -> None:
        self._tvm, self._scorer = tvm, scorer

    def program(self, task: CorpusTask) -> Program:
        """Returns the program of a task."""
        return program_of_task(self._tvm, search_task(self._tvm, task))

    def draw(self, corpus: Corpus, task: CorpusTask, size: int, seed: int, earlier: int) -> Drawn:
        """Draws new candidates of a task; fewer than asked for where there are no more."""
        searched = search_task(self._tvm, task)
        states = draw_candidates(
            self._tvm,
            searched,
            mix_of_round(earlier, size, guided=self._scorer is not None, boosted=True),
            seed,
            scorer=self._scorer,
            measured=self._measured(corpus, searched, earlier),
        )
        inputs = [self._tvm.auto_scheduler.MeasureInput(searched, state) for state in states]
        return Drawn(inputs, lambda results: self._append(corpus.records, inputs, results))

    def again(self, corpus: Corpus, records: Sequence[tuple[CorpusTask, Record]]) -> Drawn:
        """Returns recorded candidates; their results are kept as measured again."""
        ansor = self._tvm.auto_scheduler
        inputs = []
        for task, record in records:
            loaded, _ = ansor.measure_record.load_record_from_string(format_line(record))
            inputs.append(ansor.MeasureInput(search_task(self._tvm, task), loaded.state))
        return Drawn(inputs, lambda results: self._append(corpus.remeasured, inputs, results))

    def error(self, result: Any) -> str:
        """Returns what went wrong with a candidate, "" if nothing did."""
        return first_error([result]) or "unknown" if int(result.error_no) != 0 else ""

    def _append(self, path: Path, inputs: Sequence[Any], results: Sequence[Any]) -> None:
        dump = self._tvm.auto_scheduler.measure_record.dump_record_to_string
        pairs = zip(inputs, results, strict=True)
        append_member(path, (str(dump(item, result)).strip() for item, result in pairs))

    def _measured(self, corpus: Corpus, task: Any, earlier: int) -> tuple[list[Any], list[Any]]:
        """What the corpus holds of a task, as TVM's objects."""
        if earlier == 0:
            return [], []
        ansor = self._tvm.auto_scheduler
        inputs, results = [], []
        for record in iterate_records(corpus.records, LogSummary()):
            if record.workload_key == str(task.workload_key):
                loaded, result = ansor.measure_record.load_record_from_string(format_line(record))
                state = task.compute_dag.infer_bound_from_state(loaded.state)
                inputs.append(ansor.MeasureInput(task, state))
                results.append(result)
        return inputs, results
