"""The cost models that a search can be run with, and a clock around them."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cwm_jax.ranking.adaptation import AdaptationConfig
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.tvm_bridge.training_log import training_log

CostModelName = Literal["world-model", "xgboost", "random"]
AdaptationName = Literal["none", "mean", "bound"]

ADAPTATIONS = {
    "none": AdaptationConfig(minimum=sys.maxsize, exploration=0.0, drawn=0.0),
    "mean": AdaptationConfig(exploration=0.0),
    "bound": AdaptationConfig(),
}
"""How measurements correct the world model, by the name that `cwm tune` takes."""


class Clock:
    """Notes when functions ran: `calls` holds start and end of each, in seconds."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that is timed."""

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.calls.append((started, time.perf_counter()))

        return timed


def create_cost_model(
    tvm: Any,
    name: CostModelName,
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
        from cwm_jax.tvm_bridge.ansor import WorldModelCostModel

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
