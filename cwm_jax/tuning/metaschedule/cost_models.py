"""The cost models that a search of MetaSchedule can be run with."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cwm_jax.errors import CheckpointError, CorpusError, CwmError
from cwm_jax.ranking.gaussian_process import ADAPTATIONS, AdaptationName
from cwm_jax.ranking.online import OnlineRanker
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.lines import LogSummary, read_lines
from cwm_jax.records.record import latency_of_costs
from cwm_jax.search.rounds import Clock
from cwm_jax.training.dataset import split_by_network
from cwm_jax.tuning.corpus import HELD_OUT_NETWORKS, Corpus, read_tasks
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tvm_bridge.metaschedule.builder import load_intrinsics

Fields = list[Any]
"""A `TuningRecord` as JSON."""


class Update(NamedTuple):
    """What `CostModel.update` takes of one module.

    Attributes:
        context: `TuneContext`.
        candidates: `MeasureCandidate`s.
        results: Their `RunnerResult`s.
    """

    context: Any
    candidates: list[Any]
    results: list[Any]


def valid_traces(corpus: Corpus, keys: Collection[str]) -> dict[str, list[Fields]]:
    """Returns the valid records of some workloads, by workload key, in the order measured."""
    found: dict[str, list[Fields]] = defaultdict(list)
    for _, line in read_lines(corpus.traces, LogSummary().skip):
        key, fields = orjson.loads(line)
        if key in keys and latency_of_costs(fields[1] or ()) < math.inf:
            found[key].append(fields)
    return found


def tuning_records(tvm: Any, workload: Any, traces: Sequence[Fields]) -> list[Any]:
    """Returns the `TuningRecord`s of one `database.Workload`."""
    load_intrinsics()  # a trace may name some
    record = tvm.s_tir.meta_schedule.database.TuningRecord
    return [record.from_json(fields, workload) for fields in traces]


def update_of(tvm: Any, module: Any, target: Any, traces: Sequence[Fields]) -> Update:
    """Returns what a cost model learns from the records of one module."""
    ms = tvm.s_tir.meta_schedule
    records = tuning_records(tvm, ms.database.Workload(module), traces)
    return Update(
        ms.TuneContext(mod=module, target=target),
        [record.as_measure_candidate() for record in records],
        [ms.runner.RunnerResult(list(record.run_secs), None) for record in records],
    )


def learn_corpus(tvm: Any, model: Any, folder: Path) -> None:
    """Has an `XGBModel` learn a corpus.

    From then on it trains whenever it is told something: by itself it would wait until its data
    have grown by a fifth, which no search's rounds make of a corpus.

    Args:
        tvm: A TVM with MetaSchedule.
        model: `cost_model.XGBModel`.
        folder: Folder of the corpus.

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
        folder: Folder of a corpus that `cwm collect --engine metaschedule` measured.

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


def create_mlp(tvm: Any, pretrained: Path | None) -> Any:
    """Returns an `MLPModel` that a search can begin with.

    Args:
        tvm: A TVM with MetaSchedule.
        pretrained: A corpus to train it on, or a file that `save_mlp` wrote.

    Raises:
        CheckpointError: The file holds no such model.
        CorpusError: The corpus cannot be read.
        CwmError: Neither is given, or PyTorch is missing.
    """
    if pretrained is None:
        raise CwmError(
            "MetaSchedule's MLPModel cannot learn from a single workload: give --pretrain a "
            "corpus, or a file of tools/pretrain_mlp.py"
        )
    if pretrained.is_dir():
        return train_mlp(tvm, [pretrained])
    model = _new_model()
    torch = _pytorch()
    try:
        found = torch.load(pretrained, weights_only=True)
        model.trainer.state.model.load_state_dict(found["weights"])
        # It trains on all that it knows, which here would be one workload's, if that is new.
        model.trainer.state.data_size = int(found["records"])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{pretrained}: no saved MLPModel ({error})") from error
    return model


def train_mlp(tvm: Any, corpora: Sequence[Path]) -> Any:
    """Returns an `MLPModel` trained on corpora, with TVM's settings.

    Args:
        tvm: A TVM with MetaSchedule.
        corpora: Folders that `cwm collect --engine metaschedule` measured.

    Raises:
        CorpusError: One cannot be read.
        CwmError: PyTorch is missing.
    """
    model = _new_model()
    trainer = model.trainer
    trainer.frozen = True  # first the data
    for folder in corpora:
        for update in updates_of_corpus(tvm, folder):
            model.update(*update)
    trainer.frozen = False
    with _scheduler_of_old():
        trainer.train_full()
    return model


def save_mlp(model: Any, path: Path) -> None:
    """Writes the weights of an `MLPModel`, and how many records it has learned.

    TVM's own `save` pickles the records, too.
    """
    state = model.trainer.state
    found = {"weights": state.model.state_dict(), "records": state.data_size}
    path.parent.mkdir(parents=True, exist_ok=True)
    _pytorch().save(found, path)


def _new_model() -> Any:
    _pytorch()
    from tvm.s_tir.meta_schedule.cost_model.mlp_model import MLPModel

    return MLPModel()


def _pytorch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise CwmError("MetaSchedule's MLPModel needs PyTorch: pip install torch") from error
    return torch


@contextmanager
def _scheduler_of_old() -> Iterator[None]:
    """Lets TVM give `StepLR` an argument that PyTorch took until 2.6."""
    schedulers = _pytorch().optim.lr_scheduler
    current = schedulers.StepLR

    def step_lr(*arguments: Any, verbose: bool = False, **options: Any) -> Any:
        return current(*arguments, **options)

    schedulers.StepLR = step_lr
    try:
        yield
    finally:
        schedulers.StepLR = current


class TimedModel(NamedTuple):
    """A cost model of MetaSchedule.

    Attributes:
        model: `CostModel`.
        clock: When its predictions ran.
        predicted: Returns how many candidates it has scored.
        online: The world model; None for any other.
    """

    model: Any
    clock: Clock
    predicted: Callable[[], int]
    online: OnlineRanker | None


def create_cost_model(
    tvm: Any,
    name: str,
    *,
    scorer: Scorer | None,
    round_size: int,
    seed: int,
    adaptation: AdaptationName,
    interrupt: Interrupt,
    pretrain: Path | None = None,
) -> TimedModel:
    """Creates a cost model of MetaSchedule.

    Args:
        tvm: A TVM with MetaSchedule.
        name: Which one.
        scorer: The checkpoint of the world model; only it needs one.
        round_size: Trials a round. MetaSchedule's XGBModel guesses until it has seen one.
        seed: For the model's own randomness.
        adaptation: How measurements correct the world model.
        interrupt: Ends the search at the next prediction.
        pretrain: Corpus folder that XGBModel or MLPModel learns from first, and goes on learning
            from; of MLPModel also a file (`cwm_jax.tuning.metaschedule.cost_models`).

    Raises:
        CheckpointError: The file holds no MLPModel.
        CorpusError: The corpus cannot be read.
        CwmError: MLPModel lacks PyTorch, or what to begin with.
    """
    ms = tvm.s_tir.meta_schedule
    clock = Clock()
    online = None
    if name == "world-model":
        from cwm_jax.tvm_bridge.metaschedule.cost_model import WorldModelCostModel

        if scorer is None:
            raise ValueError("the world model needs a scorer")
        inner: Any = WorldModelCostModel(scorer, ADAPTATIONS[adaptation])
        online = inner.online
    elif name == "xgboost":
        inner = ms.cost_model.XGBModel(num_warmup_samples=round_size - 1)
        if pretrain is not None:
            learn_corpus(tvm, inner, pretrain)
    elif name == "mlp":
        inner = create_mlp(tvm, pretrain)
    else:
        inner = ms.cost_model.RandomModel(seed=seed)
    count = 0

    @tvm.ir.utils.derived_object
    class Timed(ms.cost_model.PyCostModel):
        def load(self, path: str) -> None:
            inner.load(path)

        def save(self, path: str) -> None:
            inner.save(path)

        def update(self, context: Any, candidates: Any, results: Any) -> None:
            inner.update(context, candidates, results)

        def predict(self, context: Any, candidates: Any) -> Any:
            nonlocal count
            count += len(candidates)
            return clock.around(interrupt.guard(inner.predict))(context, candidates)

    return TimedModel(Timed(), clock, lambda: count, online)
