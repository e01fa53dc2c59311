"""The cost models that a search of MetaSchedule can be run with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cwm_jax.ranking.gaussian_process import ADAPTATIONS, AdaptationName
from cwm_jax.ranking.online import OnlineRanker
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.tuning.clock import Clock
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tvm_bridge.metaschedule.mlp import create_mlp
from cwm_jax.tvm_bridge.metaschedule.pretraining import learn_corpus

CostModelName = Literal["world-model", "xgboost", "mlp", "random"]


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
    name: CostModelName,
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
            from; of MLPModel also a file (`cwm_jax.tvm_bridge.metaschedule.mlp`).

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
