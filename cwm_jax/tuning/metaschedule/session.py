"""What the searches of all modules share: the cost model, what measures, the files, Ctrl-C."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from cwm_jax.ranking.scorer import Scorer
from cwm_jax.tuning.interrupts import Interrupt, watch_interrupts
from cwm_jax.tuning.measurement import (
    check_reference,
    measure_config,
    measure_once,
    reference_path,
    search_measurer,
)
from cwm_jax.tuning.metaschedule.cost_models import TimedModel, create_cost_model
from cwm_jax.tuning.metaschedule.measure import MetaScheduleDevice
from cwm_jax.tuning.metaschedule.settings import SearchConfig
from cwm_jax.tuning.metaschedule.work_dir import SearchFolder

Measure = Callable[[Sequence[Any]], list[Any]]
"""`MeasureCandidate`s -> the `RunnerResult` of each."""


@dataclasses.dataclass(frozen=True)
class SearchSession:
    """What the searches of all modules share.

    Attributes:
        tvm: A TVM with MetaSchedule.
        target: TVM target.
        config: Settings.
        files: Where measurements go.
        timed: The cost model.
        measure: Builds and runs `MeasureCandidate`s.
        interrupt: Whether the user asked to stop.
    """

    tvm: Any
    target: Any
    config: SearchConfig
    files: SearchFolder
    timed: TimedModel
    measure: Measure
    interrupt: Interrupt


@contextmanager
def search_session(
    tvm: Any, target: Any, config: SearchConfig, files: SearchFolder, scorer: Scorer | None
) -> Iterator[SearchSession]:
    """Makes what the searches of all modules share; Ctrl-C is theirs until the end.

    Args:
        tvm: A TVM with MetaSchedule.
        target: TVM target.
        config: Settings.
        files: Where measurements go.
        scorer: Checkpoint of the world model, if that is the cost model.

    Raises:
        CorpusError: The corpus to learn from cannot be read.
        RecordError: What the folder holds was measured otherwise.
        TargetError: The reference program does not run on the target, or no remote device
            answers.
    """
    with watch_interrupts() as interrupt:
        timed = create_cost_model(
            tvm,
            config.cost_model,
            scorer=scorer,
            round_size=config.round_size,
            seed=config.seed,
            adaptation=config.adaptation,
            interrupt=interrupt,
            pretrain=config.pretrain,
        )
        measure = _search_measure(tvm, target, config, files, interrupt)
        yield SearchSession(tvm, target, config, files, timed, measure, interrupt)


def _search_measure(
    tvm: Any, target: Any, config: SearchConfig, files: SearchFolder, interrupt: Interrupt
) -> Measure:
    reference = reference_path(files.records)
    remote = config.tracker is not None
    check_reference(config, files.records, reference, target, remote=remote)
    measured = measure_config(config, build_timeout=config.timeout, run_timeout=config.timeout)
    sleep = interrupt.guard(time.sleep)
    device = MetaScheduleDevice(tvm, target, measured, config.tracker, sleep)
    if config.reference_every is None:
        return partial(measure_once, device)
    return search_measurer(device, measured, reference, interrupt).measure
