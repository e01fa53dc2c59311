"""Chooses which task of a network to tune next: Ansor's gradient scheduler (OSDI'20, 6.2).

The network's latency is the weighted sum of its tasks' latencies. Another round goes to the task
whose next round promises to lower that sum most, judged from what its last rounds gained, from
its latency shrinking like one over its rounds, and from the speed that similar tasks reach.
"""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class GradientConfig:
    """Weights of the estimate; Ansor's defaults.

    Attributes:
        backward: Weight of what the last rounds gained, against what the next might gain.
        similarity: A task may become so many times slower, per operation, than the fastest
            similar one.
        window: Rounds over which the gain of the past is taken.
    """

    backward: float = 0.2
    similarity: float = 2.0
    window: int = 3


@dataclasses.dataclass(frozen=True)
class TaskProgress:
    """Progress of the tuning of one task.

    Attributes:
        weight: How often the task occurs in the network.
        flop: Floating-point operations of the task.
        kind: Tasks of the same kind and about the same size are similar; "" is similar to none.
        history: Best latency in seconds after each round; infinity while none has succeeded.
        exhausted: Whether its search has no further candidates.
    """

    weight: float
    flop: float
    kind: str
    history: tuple[float, ...] = ()
    exhausted: bool = False

    @property
    def best(self) -> float:
        """Best latency so far in seconds."""
        return self.history[-1] if self.history else math.inf


def network_latency(tasks: Sequence[TaskProgress]) -> float:
    """Estimated latency of the network in seconds: the weighted sum over its tasks."""
    return sum(task.weight * task.best for task in tasks)


def next_task(tasks: Sequence[TaskProgress], config: GradientConfig) -> int | None:
    """Chooses the task of the next round: first those never tuned, then by the gradient.

    Returns:
        Its position, or None when every search is exhausted or has never succeeded.
    """
    for at, task in enumerate(tasks):
        if not task.history and not task.exhausted:
            return at
    gains = {
        at: -_gradient(task, tasks, config)
        for at, task in enumerate(tasks)
        if not task.exhausted and math.isfinite(task.best)
    }
    return max(gains, key=lambda at: gains[at]) if gains else None


def _gradient(task: TaskProgress, tasks: Sequence[TaskProgress], config: GradientConfig) -> float:
    """Estimated change of the network's latency by one more round of a task; at most 0."""
    rounds = len(task.history)
    past = 0.0
    if rounds > config.window and math.isfinite(task.history[-1 - config.window]):
        past = (task.best - task.history[-1 - config.window]) / config.window
    expected = task.best - task.best / rounds
    speeds = [
        other.flop / other.best
        for other in tasks
        if other is not task and task.kind and other.kind == task.kind and other.best < math.inf
    ]
    if speeds:
        expected = min(expected, config.similarity * task.flop / max(speeds))
    future = expected - task.best
    return task.weight * (config.backward * past + (1 - config.backward) * min(future, 0.0))
