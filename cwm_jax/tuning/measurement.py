"""Settings of a search, and measurements that notice when the machine was not steady.

Every group of candidates runs between runs of a reference program. Where these two disagree the
group runs again; where they agree they say how fast the machine was, to which its latencies are
scaled (`cwm_jax.tuning.reference`).
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from cwm_jax.errors import CorpusError, RecordError, TargetError
from cwm_jax.ranking.gaussian_process import AdaptationName
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tuning.machine import Tracker
from cwm_jax.tuning.reference import (
    ReferenceRun,
    append_reference,
    group_scales,
    level_of,
    read_reference,
)

SearchName = Literal["evolutionary", "planner"]


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """Settings of a search.

    Attributes:
        trials: Candidates to measure in all, those of a resumed search included.
        round_size: Candidates a round; the model learns between rounds.
        seed: Seed of the search.
        min_repeat_ms: One measurement repeats the program for at least so long.
        cost_model: The model that ranks, one of the engine's `cost_models`.
        search: The engine's evolutionary search, or the planner, which needs the world model.
        adaptation: How measurements correct the world model: not at all, by the mean, or by the
            upper confidence bound.
        confirm: Trials of all that measure the best programs again at the end
            (`cwm_jax.search.confirmation`).
        reference_every: Candidates between two runs of the reference program that says how fast
            the machine is (`cwm_jax.tuning.measurement`); None to measure without.
        tracker: Where devices to measure on are asked for; None for this machine.
        pretrain: Corpus folder that an engine's own model learns from before the search.
        build_timeout: Seconds that one candidate may compile.
        run_timeout: Seconds that one candidate may run; None for the engine's default.
        population: Schedules of a generation, planned or evolved; None for the engine's default.
    """

    trials: int
    round_size: int = 16
    seed: int = 0
    min_repeat_ms: int = 40
    cost_model: str = "world-model"
    search: SearchName = "evolutionary"
    adaptation: AdaptationName = "bound"
    confirm: int = 0
    reference_every: int | None = None
    tracker: Tracker | None = None
    pretrain: Path | None = None
    build_timeout: int = 30
    run_timeout: int | None = None
    population: int | None = None


REFERENCE_SIZE = 384
REFERENCE_BLOCK = (4, 16)
"""Rows and columns that the reference program computes together."""


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """How candidates are measured.

    Attributes:
        build_timeout: Seconds that one candidate may compile.
        run_timeout: Seconds that one candidate may run, all repeats together.
        repeat: Measurements of one candidate.
        min_repeat_ms: One of them runs the program for at least so long.
        reference_every: Candidates between two runs of the reference.
        tolerance: Largest relative distance between the references before and after a group.
        attempts: After so many in a row of which nothing counts, measuring gives up.
        insist: Whether it fails then; else the last attempt counts, scaled by what there is.
    """

    build_timeout: int = 30
    run_timeout: int = 15
    repeat: int = 3
    min_repeat_ms: int = 20
    reference_every: int = 16
    tolerance: float = 0.05
    attempts: int = 8
    insist: bool = True


class Device(Protocol):
    """What builds and runs programs: one of TVM's engines on this machine.

    Attributes:
        reference: The reference program, as an input: a blocked 384^3 matrix product.
    """

    reference: Any

    def build(self, inputs: Sequence[Any]) -> list[Any]:
        """Builds programs."""
        ...

    def failure(self, built: Any) -> str:
        """Returns why a program was not built, "" if it was."""
        ...

    def run(self, inputs: Sequence[Any], built: Sequence[Any]) -> list[Any]:
        """Runs programs one by one and leaves what was built as it is."""
        ...

    def latency(self, result: Any) -> float:
        """Returns the median latency of a result in seconds, infinity if it failed."""
        ...

    def scaled(self, result: Any, factor: float) -> Any:
        """Returns a result with its latencies times a factor; failures as they are."""
        ...

    def discard(self, built: Any) -> None:
        """Removes what was built."""
        ...


def measure_once(device: Device, inputs: Sequence[Any]) -> list[Any]:
    """Builds candidates and runs each once, however fast the machine is."""
    built = device.build(inputs)
    try:
        return device.run(inputs, built)
    finally:
        for program in built:
            device.discard(program)


def reference_product(te: Any) -> tuple[Any, Any, Any]:
    """Returns operands and result of the reference program, before any schedule.

    Args:
        te: An engine's `tvm.te`.
    """
    size = REFERENCE_SIZE
    left = te.placeholder((size, size), name="A")
    right = te.placeholder((size, size), name="B")
    inner = te.reduce_axis((0, size), name="k")
    out = te.compute(
        (size, size), lambda i, j: te.sum(left[i, inner] * right[inner, j], axis=inner), name="C"
    )
    return left, right, out


class SteadyMeasurer:
    """Builds and runs candidates; builds never overlap runs on the same cores.

    Args:
        device: Builds and runs.
        config: Settings.
        history: Earlier runs of the reference on this machine.
        wait: Called with the seconds to let an unsteady machine settle.
        note: Called with every run of the reference.

    Raises:
        CorpusError: The reference program does not build.
    """

    def __init__(
        self,
        device: Device,
        config: MeasureConfig,
        history: Sequence[ReferenceRun] = (),
        wait: Callable[[float], None] = time.sleep,
        note: Callable[[ReferenceRun], None] = lambda _: None,
    ) -> None:
        self.config = config
        self.history = list(history)
        self._device = device
        self._wait, self._note = wait, note
        (self._reference,) = device.build([device.reference])
        if failure := device.failure(self._reference):
            raise CorpusError(f"the reference program does not build: {failure}")

    def measure(self, inputs: Sequence[Any]) -> list[Any]:
        """Builds candidates and runs each until the machine was steady around it.

        Args:
            inputs: Inputs of the device.

        Returns:
            The device's result of each, scaled to the level of `history`.

        Raises:
            CorpusError: The machine did not become steady.
        """
        if not inputs:
            return []
        built = self._device.build(inputs)
        try:
            return self.run(inputs, built)
        finally:
            for program in built:
                self._device.discard(program)

    def run(self, inputs: Sequence[Any], built: Sequence[Any]) -> list[Any]:
        """Does the same with what is built already, and leaves it as it is."""
        results: dict[int, Any] = {}
        in_vain, attempts = 0, self.config.attempts
        while len(results) < len(inputs):
            if in_vain == attempts:
                raise self._unsteady()
            pending = [at for at in range(len(inputs)) if at not in results]
            whatever = in_vain + 1 == attempts and not self.config.insist
            kept = self._attempt(inputs, built, pending, whatever=whatever)
            results |= kept
            in_vain = 0 if kept else in_vain + 1
            if in_vain:
                self._wait(min(60.0, 2.0**in_vain))
        return [results[at] for at in range(len(inputs))]

    def _attempt(
        self, inputs: Sequence[Any], built: Sequence[Any], pending: Sequence[int], *, whatever: bool
    ) -> dict[int, Any]:
        """Runs what is pending; returns the results that count, by position."""
        results, latencies = self._run(
            [inputs[at] for at in pending], [built[at] for at in pending]
        )
        level = level_of(self.history, latencies)
        scales = group_scales(latencies, level, self.config.tolerance)
        count = sum(scale is not None for scale in scales)
        run = ReferenceRun(time.time(), level, latencies, count == len(scales), count)
        self.history.append(run)
        self._note(run)
        if whatever:
            known = group_scales(latencies, level, math.inf)
            scales = [1.0 if scale is None else scale for scale in known]
        kept: dict[int, Any] = {}
        for at, (place, result) in enumerate(zip(pending, results, strict=True)):
            scale = scales[at // self.config.reference_every]
            if scale is not None:
                kept[place] = self._device.scaled(result, scale)
        return kept

    def _unsteady(self) -> CorpusError:
        shown = ", ".join(f"{latency * 1e3:.3f}" for latency in self.history[-1].latencies)
        return CorpusError(
            f"the machine is not steady: the reference program took {shown} ms one after the "
            f"other, expected within {self.config.tolerance:.0%}; stop what else runs here, or "
            f"measure fewer candidates between two runs of it"
        )

    def _run(
        self, inputs: Sequence[Any], built: Sequence[Any]
    ) -> tuple[list[Any], tuple[float, ...]]:
        every = self.config.reference_every
        schedule: list[int | None] = [None]
        for at in range(len(inputs)):
            schedule.append(at)
            if (at + 1) % every == 0 or at + 1 == len(inputs):
                schedule.append(None)
        done = self._device.run(
            [self._device.reference if at is None else inputs[at] for at in schedule],
            [self._reference if at is None else built[at] for at in schedule],
        )
        results: list[Any] = [None] * len(inputs)
        latencies: list[float] = []
        for at, result in zip(schedule, done, strict=True):
            if at is None:
                latencies.append(self._device.latency(result))
            else:
                results[at] = result
        return results, tuple(latencies)


def kept_in(
    file: Path,
    device: Device,
    config: MeasureConfig,
    wait: Callable[[float], None] = time.sleep,
) -> SteadyMeasurer:
    """Returns a measurer that goes on with the runs of the reference in a file, and adds its own.

    Args:
        file: JSON lines, made by the first run.
        device: As for `SteadyMeasurer`; so the rest.
        config: Settings.
        wait: Called with the seconds to let an unsteady machine settle.

    Raises:
        CorpusError: The machine did not become steady.
    """
    note = partial(append_reference, file)
    return SteadyMeasurer(device, config, read_reference(file), wait, note)


# A search can stand a wrong latency better than a long wait, which a corpus cannot.
_TOLERANCE = 0.1
_ATTEMPTS = 3


def measure_config(
    settings: TuningConfig, *, build_timeout: int, run_timeout: int
) -> MeasureConfig:
    """Returns how a search measures.

    Args:
        settings: Settings of the search.
        build_timeout: Seconds that one candidate may compile.
        run_timeout: Seconds that one candidate may run.
    """
    once = MeasureConfig(
        build_timeout=build_timeout,
        run_timeout=run_timeout,
        repeat=1,
        min_repeat_ms=settings.min_repeat_ms,
    )
    if settings.reference_every is None:
        return once
    return dataclasses.replace(
        once,
        repeat=3,
        min_repeat_ms=settings.min_repeat_ms // 2,
        reference_every=settings.reference_every,
        tolerance=_TOLERANCE,
        attempts=_ATTEMPTS,
        insist=False,
    )


def reference_path(log: Path) -> Path:
    """Returns where the runs of the reference lie beside a log."""
    return log.with_name(f"{log.name.removesuffix('.jsonl')}.reference.jsonl")


def check_reference(
    settings: TuningConfig, log: Path, file: Path, target: Any, *, remote: bool = False
) -> None:
    """Checks that a search can be measured as its settings say.

    Args:
        settings: Settings of the search.
        log: Its log so far, if it is resumed.
        file: Runs of the reference.
        target: TVM target.
        remote: Whether programs run on another machine.

    Raises:
        TargetError: The reference program does not run there.
        RecordError: The log was measured otherwise.
    """
    if settings.reference_every is not None and (remote or str(target.kind.name) != "llvm"):
        raise TargetError(
            "the reference program is one for this machine's CPU: measure without "
            "--reference-every on other devices"
        )
    if log.exists() and file.exists() != (settings.reference_every is not None):
        how = "between runs of" if file.exists() else "without"
        raise RecordError(
            f"{log}: cannot resume, it was measured {how} the reference program; "
            f"{'add' if file.exists() else 'leave out'} --reference-every"
        )


def search_measurer(
    device: Device, config: MeasureConfig, file: Path, interrupt: Interrupt
) -> SteadyMeasurer:
    """Returns what measures a search between runs of the reference.

    It raises `SearchInterrupted` instead of measuring once more after the user asked to stop.

    Args:
        device: Builds and runs.
        config: Settings.
        file: Runs of the reference so far.
        interrupt: Whether the user asked to stop.
    """
    return kept_in(file, device, config, interrupt.guard(lambda _: None))
