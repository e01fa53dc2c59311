"""How the rounds of an Ansor search build and run candidates."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from cwm_jax.tuning.ansor.measure import AnsorDevice
from cwm_jax.tuning.ansor.settings import TuningConfig
from cwm_jax.tuning.interrupts import Interrupt, SearchInterrupted, sheltered_children
from cwm_jax.tuning.measurement import MeasureConfig, SteadyMeasurer
from cwm_jax.tvm_bridge.ansor.remote import create_runner
from cwm_jax.tvm_bridge.ansor.states import as_measured
from cwm_jax.tvm_bridge.steady_search import (
    check_reference,
    measure_config,
    reference_path,
    search_measurer,
)

_LOCAL_RUN = "auto_scheduler.local_runner.run"


class SearchMeasuring:
    """Builds and runs the candidates of all tasks of a search.

    Args:
        tvm: A TVM with Ansor.
        target: Of the tasks.
        config: Settings.
        log: Of the search; runs of the reference program lie beside it.
        interrupt: Whether the user asked to stop.

    Raises:
        RecordError: What the log holds was measured otherwise.
        TargetError: The reference program does not run on the target.
    """

    def __init__(
        self, tvm: Any, target: Any, config: TuningConfig, log: Path, interrupt: Interrupt
    ) -> None:
        self._tvm, self._target, self._config = tvm, target, config
        self._log, self._interrupt = log, interrupt
        self._reference = reference_path(log)
        remote = config.tracker is not None
        check_reference(config, log, self._reference, target, remote=remote)

    def measure(self, inputs: Sequence[Any]) -> list[Any]:
        """Builds and runs `MeasureInput`s.

        Raises:
            KeyboardInterrupt: The user asked to stop.
        """
        if self._interrupt.requested:
            raise KeyboardInterrupt
        try:
            with sheltered_children():
                if self._steady is not None:
                    return self._steady.measure(inputs)
                built = self._builder.build(inputs, verbose=0)
                found = self._runner.run(inputs, built, verbose=0)
                return [as_measured(self._tvm.auto_scheduler, result) for result in found]
        except SearchInterrupted:
            raise KeyboardInterrupt from None

    def program_measurer(self) -> Any:
        """Returns what Ansor's own search measures with; it appends to the log."""
        ansor = self._tvm.auto_scheduler
        keep = [ansor.RecordToFile(str(self._log))]
        return ansor.measure.ProgramMeasurer(self._builder, self._runner, keep, verbose=0)

    @contextmanager
    def of_ansor(self) -> Iterator[None]:
        """Lets what `program_measurer` returned measure between references where asked to."""
        if self._steady is None:
            yield
            return
        with _running_by(self._tvm, self._run_steadily):
            yield

    def _run_steadily(self, inputs: Sequence[Any], built: Sequence[Any]) -> list[Any]:
        """Runs what Ansor built, and removes it as TVM's runner does."""
        assert self._steady is not None
        try:
            return self._steady.run(inputs, built)
        finally:
            for program in built:
                self._device.discard(program)

    @cached_property
    def _device(self) -> AnsorDevice:
        return AnsorDevice(self._tvm, self._target, self._measured)

    @cached_property
    def _measured(self) -> MeasureConfig:
        config = self._config
        return measure_config(
            config, build_timeout=config.build_timeout, run_timeout=config.run_timeout
        )

    @cached_property
    def _steady(self) -> SteadyMeasurer | None:
        if self._config.reference_every is None:
            return None
        return search_measurer(self._device, self._measured, self._reference, self._interrupt)

    @cached_property
    def _builder(self) -> Any:
        if self._steady is not None:
            return self._device.builder
        return self._tvm.auto_scheduler.LocalBuilder(timeout=self._config.build_timeout)

    @cached_property
    def _runner(self) -> Any:
        config = self._config
        options = {
            "timeout": config.run_timeout,
            "repeat": 1,
            "min_repeat_ms": config.min_repeat_ms,
            "enable_cpu_cache_flush": False,
        }
        if config.tracker is None:
            return self._tvm.auto_scheduler.LocalRunner(**options)
        return create_runner(self._tvm, config.tracker, **options)


@contextmanager
def _running_by(
    tvm: Any, run: Callable[[Sequence[Any], Sequence[Any]], list[Any]]
) -> Iterator[None]:
    """Lets Ansor run programs by a function.

    Its runner in C++ looks TVM's own up by name, whenever there is something to run.
    """
    ffi = importlib.import_module(f"{tvm.__name__}._ffi")
    before = ffi.get_global_func(_LOCAL_RUN)
    ffi.register_func(
        _LOCAL_RUN, lambda inputs, built, *_: run(list(inputs), list(built)), override=True
    )
    try:
        yield
    finally:
        ffi.register_func(_LOCAL_RUN, before, override=True)
