"""The fastest programs of MetaSchedule's searches, built and measured again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cwm_jax.bench.best_candidates import WINNERS_MEASURED, Winner, program_name
from cwm_jax.records.record import Record
from cwm_jax.search.confirmation import best_programs
from cwm_jax.tuning.metaschedule.measure import MetaScheduleDevice
from cwm_jax.tuning.metaschedule.targets import host_target
from cwm_jax.tuning.metaschedule.work_dir import (
    SEARCH_RECORDS,
    line_of,
    search_records,
    tuning_record_of,
)
from cwm_jax.tvm_bridge.runtime import use
from cwm_jax.workloads.parse import parse_workload


class MetaScheduleWinners:
    """Finds and measures winners.

    Args:
        workloads: What was searched, as for `cwm tune`.

    Attributes:
        target: TVM target of this machine.
        device: What measures winners.
    """

    def __init__(self, workloads: Sequence[str]) -> None:
        self._tvm = use("metaschedule")
        target = host_target(self._tvm)
        self.target = str(target)
        self.device = MetaScheduleDevice(self._tvm, target, WINNERS_MEASURED)
        for text in workloads:  # refuses what is none before anything is searched
            parse_workload(text)

    def after(self, log: Path, trials: int, count: int = 1) -> list[Winner]:
        """Returns the best programs of the first `trials` records of a search's folder."""
        records = search_records(log)[:trials]
        return [_winner(log, record) for record in best_programs(records, count) or records[:1]]

    def records(self, log: Path) -> Path:
        """Returns the records in a search's folder."""
        return log / SEARCH_RECORDS

    def input_of(self, winner: Winner) -> Any:
        """Returns the `MeasureCandidate` of a winner."""
        return tuning_record_of(self._tvm, *winner.program).as_measure_candidate()


def _winner(log: Path, record: Record) -> Winner:
    line = line_of(log, record)
    return Winner(program_name(line), record.latency, (log, line))
