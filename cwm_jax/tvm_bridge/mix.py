"""What a round of a corpus is made of: slow, middling and near-optimal programs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mix:
    """How many candidates of each origin a round measures.

    Attributes:
        sampled: Random samples of the sketches.
        mutated: From evolution under a random model.
        guided: From evolution under the world model, half of them its favourites.
        boosted: From evolution under the engine's XGBoost model, trained on the task's records
            so far, favourites among them.
    """

    sampled: int
    mutated: int
    guided: int
    boosted: int = 0


def mix_of_round(earlier: int, size: int, *, guided: bool, boosted: bool = False) -> Mix:
    """Returns the mix of a task's next round.

    Args:
        earlier: Records that the task has.
        size: Candidates of the round.
        guided: Whether there is a world model.
        boosted: Whether XGBoost can learn from the task's records, and find what the world
            model that guides does not know.
    """
    if not guided:
        sampled = size // 2 if earlier == 0 else size // 4
        return Mix(sampled, size - sampled, 0)
    if earlier == 0:
        sampled, mutated = size // 4, size // 4
    else:
        sampled, mutated = size // 16, size // 8
    rest = size - sampled - mutated
    learned = rest // 2 if boosted and earlier else 0
    return Mix(sampled, mutated, rest - learned, learned)
