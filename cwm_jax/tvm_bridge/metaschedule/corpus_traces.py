"""What a corpus holds of MetaSchedule's candidates, as TVM's objects."""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import orjson

from cwm_jax.records.ansor_log import LogSummary, read_lines
from cwm_jax.records.record import latency_of_costs
from cwm_jax.tuning.corpus import Corpus
from cwm_jax.tvm_bridge.metaschedule.intrinsics import load_intrinsics

Fields = list[Any]
"""A `TuningRecord` as JSON."""


class Update(NamedTuple):
    """What `CostModel.update` takes of one module.

    Attributes:
        context: `TuneContext`.
        candidates: `MeasureCandidate`s.
        results: Their `RunnerResult`s.
    """

    context: Any
    candidates: list[Any]
    results: list[Any]


def valid_traces(corpus: Corpus, keys: Collection[str]) -> dict[str, list[Fields]]:
    """Returns the valid records of some workloads, by workload key, in the order measured."""
    found: dict[str, list[Fields]] = defaultdict(list)
    for _, line in read_lines(corpus.traces, LogSummary().skip):
        key, fields = orjson.loads(line)
        if key in keys and latency_of_costs(fields[1] or ()) < math.inf:
            found[key].append(fields)
    return found


def tuning_records(tvm: Any, workload: Any, traces: Sequence[Fields]) -> list[Any]:
    """Returns the `TuningRecord`s of one `database.Workload`."""
    load_intrinsics()  # a trace may name some
    record = tvm.s_tir.meta_schedule.database.TuningRecord
    return [record.from_json(fields, workload) for fields in traces]


def update_of(tvm: Any, module: Any, target: Any, traces: Sequence[Fields]) -> Update:
    """Returns what a cost model learns from the records of one module."""
    ms = tvm.s_tir.meta_schedule
    records = tuning_records(tvm, ms.database.Workload(module), traces)
    return Update(
        ms.TuneContext(mod=module, target=target),
        [record.as_measure_candidate() for record in records],
        [ms.runner.RunnerResult(list(record.run_secs), None) for record in records],
    )
