"""Ansor's builder and runner as a `Device`."""

import importlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.errors import TargetError
from cwm_jax.processes import sheltered_children
from cwm_jax.tuning.interrupts import Interrupt, SearchInterrupted
from cwm_jax.tuning.machine import Tracker, check_device
from cwm_jax.tuning.measurement import (
    REFERENCE_BLOCK,
    REFERENCE_SIZE,
    MeasureConfig,
    SteadyMeasurer,
    TuningConfig,
    check_reference,
    measure_config,
    reference_path,
    reference_product,
    search_measurer,
)
from cwm_jax.tvm_bridge.ansor.graphs import as_measured

RUN_TIMEOUT = 15
"""Seconds that one candidate may run, as Ansor has it."""
LOST_ROUNDS = 3
"""A search gives up after so many rounds in a row without an answer."""

# `MeasureErrorNo` of what cannot be uploaded, run, or waited for (`auto_scheduler/measure.py`).
_COMPILE_DEVICE, _RUNTIME_DEVICE, _RUN_TIMEOUT = 3, 4, 7


def create_runner(tvm: Any, tracker: Tracker, **options: Any) -> Any:
    """Returns an `auto_scheduler.RPCRunner`.

    Args:
        tvm: A TVM with Ansor.
        tracker: Where to ask for devices.
        options: As for the runner.

    Raises:
        TargetError: The tracker does not answer, or has no device of this key.
    """
    check_device(tvm, tracker)
    try:
        return tvm.auto_scheduler.RPCRunner(tracker.key, tracker.host, tracker.port, **options)
    except RuntimeError as error:
        raise TargetError(
            f"tracker {tracker}: no device answers; see `python -m tvm.exec.query_rpc_tracker "
            f"--host {tracker.host} --port {tracker.port}`"
        ) from error


def connect(tvm: Any, tracker: Tracker) -> Any:
    """Returns an RPC session with a device.

    Raises:
        TargetError: No device answers within a minute.
    """
    check_device(tvm, tracker)
    request = tvm.auto_scheduler.utils.request_remote
    try:
        return request(tracker.key, tracker.host, tracker.port, timeout=60)
    except (RuntimeError, OSError, tvm.TVMError) as error:
        raise TargetError(f"tracker {tracker}: no device answers ({error})") from error


def device_lost(results: Sequence[Any]) -> bool:
    """Returns whether a round failed as a whole, as it does when the device goes away."""
    lost = (_COMPILE_DEVICE, _RUNTIME_DEVICE, _RUN_TIMEOUT)
    return len(results) > 0 and all(int(result.error_no) in lost for result in results)


def learning_from_answers(update: Callable[..., None]) -> Callable[..., None]:
    """Returns an `update` that learns nothing from a round in which the device was lost."""

    def learn(inputs: Sequence[Any], results: Sequence[Any]) -> None:
        if not device_lost(results):
            update(inputs, results)

    return learn


def reference_input(tvm: Any, target: Any) -> Any:
    """Returns the `MeasureInput` of the reference: a blocked 384^3 matrix product."""
    ansor = tvm.auto_scheduler
    left, right, out = reference_product(tvm.te)
    key = f'["cwm_reference", {REFERENCE_SIZE}]'
    ansor.workload_registry.register_workload_tensors(key, [left, right, out], override=True)
    task = ansor.SearchTask(workload_key=key, target=target)
    state = task.compute_dag.get_init_state()
    i, j, k = state[out].iters
    rows, columns = REFERENCE_BLOCK
    i_outer, i_inner = state.split(out, i, [rows])
    j_outer, j_inner = state.split(out, j, [columns])
    state.reorder(out, [i_outer, j_outer, k, i_inner, j_inner])
    state.parallel(out, i_outer)
    state.unroll(out, i_inner)
    state.vectorize(out, j_inner)
    return ansor.MeasureInput(task, state)


class AnsorDevice:
    """This machine, by Ansor.

    Inputs are `auto_scheduler.MeasureInput`, results `MeasureResult`.

    Args:
        tvm: A TVM with Ansor.
        target: Target of all programs.
        config: Settings.

    Attributes:
        reference: The reference program.
        builder: An `auto_scheduler.ProgramBuilder`.
    """

    def __init__(self, tvm: Any, target: Any, config: MeasureConfig) -> None:
        self._ansor, self._config = tvm.auto_scheduler, config
        # Builders link too, side by side: TVM's default leaves that to the runner, one by one.
        link = importlib.import_module(f"{tvm.__name__}.contrib.cc").create_shared
        self.builder = self._ansor.LocalBuilder(timeout=config.build_timeout, build_func=link)
        self.reference = reference_input(tvm, target)

    def build(self, inputs: Sequence[Any]) -> list[Any]:
        """Builds programs side by side."""
        return list(self.builder.build(list(inputs), verbose=0))

    def failure(self, built: Any) -> str:
        """Returns why a program was not built, "" if it was."""
        return str(built.error_msg) or "unknown" if int(built.error_no) != 0 else ""

    def run(self, inputs: Sequence[Any], built: Sequence[Any]) -> list[Any]:
        """Runs copies of what was built: TVM's runner deletes what it has run."""
        copies = [self._copy(program) for program in built]
        try:
            # Not by a `LocalRunner`, which a search may have run programs by this very method.
            config, number, cooldown, flush_cache, verbose = self._config, 1, 0.0, False, 0
            timing = (config.run_timeout, number, config.repeat, config.min_repeat_ms)
            run = self._ansor.measure.local_run
            found = run(list(inputs), copies, *timing, cooldown, flush_cache, verbose)
            return [as_measured(self._ansor, result) for result in found]
        finally:
            for copy in copies:
                self.discard(copy)

    def latency(self, result: Any) -> float:
        """Returns the median latency of a result in seconds, infinity if it failed."""
        if int(result.error_no) != 0:
            return math.inf
        return float(np.median([float(cost.value) for cost in result.costs]))

    def scaled(self, result: Any, factor: float) -> Any:
        """Returns a result with its latencies times a factor; failures as they are."""
        if int(result.error_no) != 0:
            return result
        costs = [float(cost.value) * factor for cost in result.costs]
        return self._ansor.measure.MeasureResult(
            costs, result.error_no, result.error_msg, result.all_cost, result.timestamp
        )

    def discard(self, built: Any) -> None:
        """Removes what was built."""
        if str(built.filename):
            shutil.rmtree(Path(str(built.filename)).parent, ignore_errors=True)

    def _copy(self, built: Any) -> Any:
        if int(built.error_no) != 0:
            return built
        source = Path(str(built.filename))
        target = Path(tempfile.mkdtemp(prefix="cwm-")) / source.name
        shutil.copyfile(source, target)
        return self._ansor.measure.BuildResult(
            str(target), built.args, built.error_no, built.error_msg, built.time_cost
        )


_LOCAL_RUN = "auto_scheduler.local_runner.run"


class SearchMeasuring:
    """Builds and runs the candidates of all tasks of a search.

    Args:
        tvm: A TVM with Ansor.
        target: Target of the tasks.
        config: Settings.
        log: Log of the search; runs of the reference program lie beside it.
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
            config,
            build_timeout=config.build_timeout,
            run_timeout=config.run_timeout or RUN_TIMEOUT,
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
            "timeout": config.run_timeout or RUN_TIMEOUT,
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
