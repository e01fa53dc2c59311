"""The training part of a corpus, as a log that TVM's own models can learn from."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cwm_jax.evaluation.splits import split_by_network
from cwm_jax.records.ansor_log import LogSummary, append_records, iterate_records
from cwm_jax.tuning.corpus import Corpus
from cwm_jax.tvm_bridge.ansor.tasks import search_task
from cwm_jax.tvm_bridge.corpus_plan import HELD_OUT_NETWORKS
from cwm_jax.tvm_bridge.corpus_tasks import read_tasks


@contextmanager
def training_log(tvm: Any, folder: Path) -> Iterator[Path]:
    """Registers a corpus's workloads and writes the records of those not held out.

    Args:
        tvm: A TVM with Ansor.
        folder: Of the corpus.

    Yields:
        A temporary log.

    Raises:
        CorpusError: The corpus cannot be read.
    """
    corpus = Corpus(folder)
    tasks = {task.workload_key: task for task in read_tasks(corpus.tasks)}
    occurrences = {key: task.occurrences for key, task in tasks.items()}
    keys = set(split_by_network(occurrences, HELD_OUT_NETWORKS).train)
    found = iterate_records(corpus.records, LogSummary())
    records = [record for record in found if record.valid and record.workload_key in keys]
    for key in {record.workload_key for record in records}:
        search_task(tvm, tasks[key])
    with tempfile.TemporaryDirectory(prefix="cwm-") as work:
        path = Path(work) / "training.json"
        append_records(path, records)
        yield path
