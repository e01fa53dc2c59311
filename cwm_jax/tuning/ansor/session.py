"""What the searches of all tasks share: the cost model, what measures, the log, Ctrl-C."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.tuning.ansor.cost_models import create_cost_model
from cwm_jax.tuning.ansor.measure import SearchMeasuring, learning_from_answers
from cwm_jax.tuning.ansor.settings import TuningConfig
from cwm_jax.tuning.clock import Clock
from cwm_jax.tuning.interrupts import Interrupt, watch_interrupts


@dataclasses.dataclass(frozen=True)
class SearchSession:
    """What the searches of all tasks share.

    Attributes:
        tvm: A TVM with Ansor.
        config: Settings.
        log: Ansor log that every round is appended to.
        measuring: Builds and runs candidates.
        model: Cost model, timed and guarded.
        clock: Its clock.
        interrupt: Whether the user asked to stop; the round under way is dropped then, and
            raises `KeyboardInterrupt`.
    """

    tvm: Any
    config: TuningConfig
    log: Path
    measuring: SearchMeasuring
    model: Any
    clock: Clock
    interrupt: Interrupt


@contextmanager
def search_session(
    tvm: Any, target: Any, config: TuningConfig, log: Path, scorer: Scorer | None, learn_every: int
) -> Iterator[SearchSession]:
    """Makes what the searches of all tasks share; Ctrl-C is theirs until the end.

    Args:
        tvm: A TVM with Ansor.
        target: Of all tasks.
        config: Settings.
        log: Ansor log.
        scorer: Checkpoint of the world model, if that is the cost model.
        learn_every: Measurements after which a model that trains does so.

    Raises:
        RecordError: What the log holds was measured otherwise.
        TargetError: The settings ask for references on another device than this CPU.
    """
    model, clock = create_cost_model(
        tvm,
        config.cost_model,
        scorer=scorer,
        round_size=learn_every,
        seed=config.seed,
        adaptation=config.adaptation,
        pretrain=config.pretrain,
    )
    with watch_interrupts() as interrupt:
        model.predict = interrupt.guard(model.predict)
        model.update = interrupt.guard(model.update)
        if config.tracker is not None:
            model.update = learning_from_answers(model.update)
        measuring = SearchMeasuring(tvm, target, config, log, interrupt)
        yield SearchSession(tvm, config, log, measuring, model, clock, interrupt)
