"""Reads many candidates: TVM writes their traces, and a second process translates meanwhile."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cwm_jax.features.batch import Groups
from cwm_jax.features.trace_helper import TraceHelper, group_trace_lines
from cwm_jax.records.graph import Program
from cwm_jax.records.metaschedule.translate import Unread
from cwm_jax.tvm_bridge.metaschedule.traces import trace_lines

_WORTHWHILE = 256
"""Fewer candidates are read before the other process has answered."""

_SHARE = 0.65
"""Of the candidates go to the other process. It begins when they are written, and a trace takes
about as long to write as to translate."""


class Reading(NamedTuple):
    """Candidates of one program, about to be read.

    Attributes:
        lines: What `trace_lines` says of each.
        groups: Groups the schedules of distinct ones of the lines, with all that were `unknown`
            among them.
    """

    lines: list[bytes]
    groups: Callable[[list[bytes]], Groups]


class CandidateReader:
    """Reads candidates.

    Args:
        tvm: A TVM with MetaSchedule.
    """

    def __init__(self, tvm: Any) -> None:
        self._tvm = tvm
        self._helper = TraceHelper()

    def read(
        self,
        candidates: Sequence[Any],
        program: Program,
        unknown: Callable[[Sequence[bytes]], list[bytes]],
        unread: Unread,
    ) -> Reading:
        """Has TVM write the traces of candidates.

        Args:
            candidates: `MeasureCandidate`s.
            program: Of all of them.
            unknown: Which lines will have to be read, each once.
            unread: As for `translate_traces`.
        """
        if len(candidates) < _WORTHWHILE:
            lines = trace_lines(self._tvm, candidates)
            return Reading(lines, lambda wanted: group_trace_lines(wanted, program, unread))
        first = int(_SHARE * len(candidates))
        lines = trace_lines(self._tvm, candidates[:first])
        begun = unknown(lines)
        answer = self._helper.begin(begun, program, unread)
        lines += trace_lines(self._tvm, candidates[first:])

        def groups(wanted: list[bytes]) -> Groups:
            rows, asked = {line: row for row, line in enumerate(wanted)}, set(begun)
            others = [line for line in wanted if line not in asked]
            own = group_trace_lines(others, program, unread)
            return _placed(own, others, rows) + _placed(answer(), begun, rows)

        return Reading(lines, groups)


def _placed(groups: Groups, lines: Sequence[bytes], rows: dict[bytes, int]) -> Groups:
    """Groups of some lines, with the rows that these have among all."""
    places = np.array([rows[line] for line in lines], np.int32)
    return [(places[members], group) for members, group in groups]
