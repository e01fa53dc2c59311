"""The training part of a corpus, for MetaSchedule's own models to learn from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cwm_jax.errors import CorpusError
from cwm_jax.evaluation.splits import split_by_network
from cwm_jax.tuning.corpus import Corpus
from cwm_jax.tvm_bridge.corpus_plan import HELD_OUT_NETWORKS
from cwm_jax.tvm_bridge.corpus_tasks import read_tasks
from cwm_jax.tvm_bridge.metaschedule.corpus_traces import Update, update_of, valid_traces


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
    corpus = Corpus(folder)
    tasks = {task.workload_key: task for task in read_tasks(corpus.tasks)}
    occurrences = {key: task.occurrences for key, task in tasks.items()}
    traces = valid_traces(corpus, set(split_by_network(occurrences, HELD_OUT_NETWORKS).train))
    if not traces:
        raise CorpusError(f"{corpus.traces}: holds no traces of workloads to learn from")
    for key, found in traces.items():
        module, target = tvm.ir.load_json(tasks[key].tensors), tasks[key].target
        yield update_of(tvm, module, tvm.target.Target(target), found)
