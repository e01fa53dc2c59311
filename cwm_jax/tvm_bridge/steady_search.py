"""Searches on machines that change their speed: candidates run between runs of a reference.

Without, a search on such a machine learns how fast the machine was when it measured a candidate,
and may keep a slow program that had luck (`cwm_jax.tuning.measurement`).
"""

import dataclasses
from pathlib import Path
from typing import Any

from cwm_jax.errors import RecordError, TargetError
from cwm_jax.tuning.interrupts import Interrupt
from cwm_jax.tuning.loop import SearchSettings
from cwm_jax.tuning.measurement import Device, MeasureConfig, SteadyMeasurer, kept_in

# A search can stand a wrong latency better than a long wait, which a corpus cannot.
_TOLERANCE = 0.1
_ATTEMPTS = 3


def measure_config(
    settings: SearchSettings, *, build_timeout: int, run_timeout: int
) -> MeasureConfig:
    """Returns how a search measures.

    Args:
        settings: Of the search.
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
    settings: SearchSettings, log: Path, file: Path, target: Any, *, remote: bool = False
) -> None:
    """Checks that a search can be measured as its settings say.

    Args:
        settings: Of the search.
        log: What it has measured so far, if it is resumed.
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
