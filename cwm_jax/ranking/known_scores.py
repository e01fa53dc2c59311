"""What a pretrained model says of the schedules of a program, each ranked only once."""

from collections.abc import Callable, Hashable, Sequence
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from cwm_jax.ranking.scorer import Scores, take_scores

Name = TypeVar("Name", bound=Hashable)
"""A schedule, or what stands for it."""


class KnownScores(Generic[Name]):
    """Scores of the schedules of one program by one model.

    A search asks again about what it kept from one generation to the next.
    """

    def __init__(self) -> None:
        self._rows: dict[Name, int] = {}
        self._scores: Scores | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, schedule: Name) -> bool:
        return schedule in self._rows

    def of(self, schedules: Sequence[Name], rank: Callable[[list[Name]], Scores]) -> Scores:
        """Returns the scores of schedules in their order, with those of new ones made.

        Args:
            schedules: At least one.
            rank: Scores schedules that are not known yet, at least one.

        Raises:
            RecordError: As `rank` does; none of the new ones is known then.
        """
        known = len(self._rows)
        # A schedule's hash is the dearest part of a look-up: it is taken once.
        rows = [self._rows.setdefault(schedule, len(self._rows)) for schedule in schedules]
        fresh = list(islice(self._rows, known, None))
        if fresh:
            try:
                found = rank(fresh)
            except Exception:
                for schedule in fresh:
                    del self._rows[schedule]
                raise
            self._scores = _with_room(self._scores, found, known)
            for array, rows_found in zip(self._scores, found, strict=True):
                array[known : known + len(fresh)] = rows_found
        assert self._scores is not None
        return take_scores(self._scores, rows)


def _with_room(scores: Scores | None, found: Scores, known: int) -> Scores:
    """Scores with rows for more behind those that are known; their number doubles when it grows."""
    needed = known + len(found.score)
    if scores is not None and len(scores.score) >= needed:
        return scores
    larger = Scores(*(np.empty((2 * needed, *part.shape[1:]), part.dtype) for part in found))
    for array, former in zip(larger, scores or (), strict=scores is not None):
        array[:known] = former[:known]
    return larger
