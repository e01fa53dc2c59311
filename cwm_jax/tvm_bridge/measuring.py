"""Measurements that notice when the machine was not quiet.

Every batch of candidates runs between runs of a reference program, and a batch around which
the reference was off is run again (`cwm_jax.tvm_bridge.reference`).
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cwm_jax.errors import CorpusError
from cwm_jax.tvm_bridge.reference import ReferenceRun, judge_reference

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
        tolerance: Largest relative distance of the reference from its level in a quiet batch.
        attempts: How often an unquiet batch is run before `measure` gives up.
        level_window: The level is the median of so many latest quiet reference runs.
    """

    build_timeout: int = 30
    run_timeout: int = 15
    repeat: int = 3
    min_repeat_ms: int = 20
    reference_every: int = 16
    tolerance: float = 0.05
    attempts: int = 8
    level_window: int = 30


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

    def discard(self, built: Any) -> None:
        """Removes what was built."""
        ...


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


class QuietMeasurer:
    """Builds and runs candidates; builds never overlap runs on the same cores.

    Args:
        device: Builds and runs.
        config: Settings.
        history: Earlier runs of the reference on this machine.
        wait: Called with the seconds to let an unquiet machine settle.

    Raises:
        CorpusError: The reference program does not build.
    """

    def __init__(
        self,
        device: Device,
        config: MeasureConfig,
        history: Sequence[ReferenceRun] = (),
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.config = config
        self.history = list(history)
        self._device = device
        self._wait = wait
        (self._reference,) = device.build([device.reference])
        if failure := device.failure(self._reference):
            raise CorpusError(f"the reference program does not build: {failure}")

    def measure(self, inputs: Sequence[Any]) -> list[Any]:
        """Builds candidates and runs them until the machine was quiet around all of them.

        Args:
            inputs: Of the device.

        Returns:
            The device's result of each.

        Raises:
            CorpusError: The machine did not become quiet.
        """
        built = self._device.build(inputs)
        try:
            for attempt in range(self.config.attempts):
                results, latencies = self._run(inputs, built)
                self.history.append(self._judge(latencies))
                if self.history[-1].accepted:
                    return results
                self._wait(min(60.0, 2.0 * 2**attempt))
        finally:
            for program in built:
                self._device.discard(program)
        shown = ", ".join(f"{latency * 1e3:.3f}" for latency in self.history[-1].latencies)
        level = self.history[-1].level * 1e3
        raise CorpusError(
            f"the machine is not quiet: the reference program took {shown} ms, expected "
            f"{level:.3f} ms within {self.config.tolerance:.0%}; stop what else runs here"
        )

    def _judge(self, latencies: tuple[float, ...]) -> ReferenceRun:
        return judge_reference(
            self.history,
            latencies,
            tolerance=self.config.tolerance,
            window=self.config.level_window,
            time=time.time(),
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
