"""The training part of a corpus, for MetaSchedule's own models to learn from."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cwm_jax.errors import CorpusError
from cwm_jax.evaluation.splits import split_by_network
from cwm_jax.records.ansor_log import LogSummary, read_lines
from cwm_jax.tvm_bridge.corpus_files import Corpus
from cwm_jax.tvm_bridge.corpus_plan import HELD_OUT_NETWORKS
from cwm_jax.tvm_bridge.corpus_tasks import read_tasks
from cwm_jax.tvm_bridge.metaschedule.intrinsics import load_intrinsics
from cwm_jax.tvm_bridge.metaschedule.records import FAILED_SECONDS


class Update(NamedTuple):
    """What `CostModel.update` takes of one workload.

    Attributes:
        context: `TuneContext`.
        candidates: `MeasureCandidate`s.
        results: Their `RunnerResult`s.
    """

    context: Any
    candidates: list[Any]
    results: list[Any]


def learn_corpus(tvm: Any, model: Any, folder: Path) -> None:
    """Has an `XGBModel` learn a corpus.

    From then on it trains whenever it is told something: by itself it would wait until its data
    have grown by a fifth, which no search's rounds make of a corpus.

    Args:
        tvm: A TVM with MetaSchedule.
        model: `cost_model.XGBModel`.
        folder: Of the corpus.

    Raises:
        CorpusError: As for `updates_of_corpus`.
    """
    updates = list(updates_of_corpus(tvm, folder))
    for update in updates[:-1]:
        model.update(*update)
    model.adaptive_training = False
    model.update(*updates[-1])


def updates_of_corpus(tvm: Any, folder: Path) -> Iterator[Update]:
    """Yields the valid records of each workload of a corpus that is of no held-out network.

    Args:
        tvm: A TVM with MetaSchedule.
        folder: Of a corpus that `cwm collect --engine metaschedule` measured.

    Raises:
        CorpusError: The corpus cannot be read, or holds nothing to learn from.
    """
    load_intrinsics()  # a trace may name some
    ms = tvm.s_tir.meta_schedule
    corpus = Corpus(folder)
    tasks = {task.workload_key: task for task in read_tasks(corpus.tasks)}
    occurrences = {key: task.occurrences for key, task in tasks.items()}
    traces = _traces_of(corpus, set(split_by_network(occurrences, HELD_OUT_NETWORKS).train))
    if not traces:
        raise CorpusError(f"{corpus.traces}: holds no traces of workloads to learn from")
    for key, found in traces.items():
        module = tvm.ir.load_json(tasks[key].tensors)
        context = ms.TuneContext(mod=module, target=tvm.target.Target(tasks[key].target))
        workload = ms.database.Workload(module)
        records = [ms.database.TuningRecord.from_json(fields, workload) for fields in found]
        yield Update(
            context,
            [record.as_measure_candidate() for record in records],
            [ms.runner.RunnerResult(list(record.run_secs), None) for record in records],
        )


def _traces_of(corpus: Corpus, keys: set[str]) -> dict[str, list[Any]]:
    """Returns the valid records of some workloads as TVM's database has them, by workload."""
    found: dict[str, list[Any]] = defaultdict(list)
    for _, line in read_lines(corpus.traces, LogSummary()):
        key, fields = orjson.loads(line)
        if key in keys and max(fields[1]) < FAILED_SECONDS:
            found[key].append(fields)
    return found
