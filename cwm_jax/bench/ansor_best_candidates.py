"""The fastest programs of Ansor's searches, built and measured again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cwm_jax.bench.best_candidates import WINNERS_MEASURED, Winner, program_name
from cwm_jax.records.ansor_log import format_line
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.logs import load_records
from cwm_jax.records.record import Record
from cwm_jax.search.confirmation import best_programs
from cwm_jax.tuning.ansor.measure import AnsorDevice
from cwm_jax.tuning.ansor.targets import host_target
from cwm_jax.tuning.ansor.tasks import create_task
from cwm_jax.tvm_bridge.runtime import use
from cwm_jax.workloads.parse import parse_workload


class AnsorWinners:
    """Finds and measures winners.

    Args:
        workloads: What was searched, as for `cwm tune`.

    Attributes:
        target: TVM target of this machine.
        device: What measures winners.
    """

    def __init__(self, workloads: Sequence[str]) -> None:
        self._tvm = use("ansor")
        self._ansor = self._tvm.auto_scheduler
        self._target = host_target(self._tvm)
        self.target = str(self._target)
        self._workloads = [parse_workload(text) for text in dict.fromkeys(workloads)]
        self._tasks: dict[str, Any] = {}
        self.device = AnsorDevice(self._tvm, self._target, WINNERS_MEASURED)

    def after(self, log: Path, trials: int, count: int = 1) -> list[Winner]:
        """Returns the best programs of the first `trials` records of a log."""
        records = load_records(log, summary=LogSummary())[:trials]
        return [winner_of(record) for record in best_programs(records, count) or records[:1]]

    def records(self, log: Path) -> Path:
        """Returns the records of a search: its log."""
        return log

    def input_of(self, winner: Winner) -> Any:
        """Returns the `MeasureInput` of a winner."""
        key, line = winner.program
        if not self._tasks:
            tasks = [create_task(self._tvm, what, self._target) for what in self._workloads]
            self._tasks = {str(task.workload_key): task for task in tasks}
        loaded, _ = self._ansor.measure_record.load_record_from_string(line)
        return self._ansor.MeasureInput(self._tasks[key], loaded.state)


def winner_of(record: Record) -> Winner:
    """Returns a record as what is measured again."""
    line = format_line(record)
    return Winner(program_name(line), record.latency, (record.workload_key, line))
