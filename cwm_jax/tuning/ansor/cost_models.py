"""The cost models that a search of Ansor can be run with."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.ranking.gaussian_process import ADAPTATIONS, AdaptationName
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.ansor_log import append_records
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import iterate_records
from cwm_jax.search.rounds import Clock
from cwm_jax.training.dataset import split_by_network
from cwm_jax.tuning.ansor.tasks import search_task
from cwm_jax.tuning.corpus import HELD_OUT_NETWORKS, Corpus, read_tasks


def create_cost_model(
    tvm: Any,
    name: str,
    *,
    scorer: Scorer | None,
    round_size: int,
    seed: int,
    adaptation: AdaptationName = "bound",
    pretrain: Path | None = None,
) -> tuple[Any, Clock]:
    """Creates an Ansor cost model whose `predict` and `update` are timed.

    Args:
        tvm: A TVM with Ansor.
        name: Which one.
        scorer: The checkpoint of the world model; only it needs one.
        round_size: Trials a round. Ansor's XGBoost model guesses until it has seen more than
            one round, as in its `TaskScheduler`.
        seed: For the model's own randomness.
        adaptation: How measurements correct the world model.
        pretrain: Corpus folder that XGBoost learns from first, and goes on learning from.
    """
    if name == "world-model":
        from cwm_jax.tvm_bridge.ansor.cost_model import WorldModelCostModel

        if scorer is None:
            raise ValueError("the world model needs a scorer")
        model: Any = WorldModelCostModel(scorer, ADAPTATIONS[adaptation])
    elif name == "xgboost":
        # Its guesses before the first training come from NumPy's global generator.
        np.random.seed(seed)  # noqa: NPY002
        model = tvm.auto_scheduler.XGBModel(
            verbose_eval=0, num_warmup_sample=round_size - 1, seed=seed
        )
        if pretrain is not None:
            with training_log(tvm, pretrain) as log:
                model.update_from_file(str(log))
    else:
        model = _random_model(tvm, seed)
    clock = Clock()
    model.predict = clock.around(model.predict)
    model.update = clock.around(model.update)
    return model, clock


def _random_model(tvm: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)

    class RandomModel(tvm.auto_scheduler.cost_model.cost_model.PythonBasedModel):
        def predict(self, task: Any, states: Sequence[Any]) -> np.ndarray:
            return rng.random(len(states), np.float32)

        def update(self, inputs: Sequence[Any], results: Sequence[Any]) -> None:
            pass

        def update_from_file(self, file_name: str) -> None:
            pass

    return RandomModel()


@contextmanager
def training_log(tvm: Any, folder: Path) -> Iterator[Path]:
    """Registers a corpus's workloads and writes the records of those not held out.

    Args:
        tvm: A TVM with Ansor.
        folder: Folder of the corpus.

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
