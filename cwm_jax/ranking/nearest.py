"""Which shipped checkpoints are for an engine, and for a machine like this one."""

import math

from cwm_jax.errors import CheckpointError
from cwm_jax.features.host import Caches, host_caches
from cwm_jax.model.checkpoint import read_card
from cwm_jax.model.locations import checkpoints_folder, shipped_checkpoints
from cwm_jax.ranking.scorer import Scorer


def nearest_checkpoint(engine: str, caches: Caches | None = None) -> str:
    """Returns the shipped CPU checkpoint for the likest machine, one that knows the engine first.

    Caches tell CPUs apart where names do not (cloud machines call several generations alike),
    and are what a tiling is for.

    Args:
        engine: Who searches: `ansor` or `metaschedule`.
        caches: Of the machine; this one's by default.

    Raises:
        CheckpointError: No checkpoint for a CPU is shipped.
    """
    here = caches or host_caches()
    found: list[tuple[bool, float, int, str]] = []
    for name in shipped_checkpoints():
        card = read_card(checkpoints_folder() / name)
        device = card["hardware"]
        if device["kind"] != "cpu":
            continue
        strange = engine not in card.get("engines", ("ansor",))
        # Of two for one device, the one that was trained on fewer others.
        others = len(card.get("other_devices") or ())
        found.append((strange, _distance(device, here), others, name))
    if not found:
        raise CheckpointError("no checkpoint for a CPU is shipped: name one by --checkpoint")
    return min(found)[-1]


def shipped_scorers(engine: str, kind: str) -> list[Scorer]:
    """Loads all shipped checkpoints for devices of a kind that know an engine.

    Args:
        engine: `ansor` or `metaschedule`.
        kind: `cpu` or `gpu`.
    """
    cards = {name: read_card(checkpoints_folder() / name) for name in shipped_checkpoints()}
    return [
        Scorer.load(name)
        for name, card in cards.items()
        if engine in card.get("engines", ("ansor",)) and card["hardware"]["kind"] == kind
    ]


def _distance(device: dict[str, float], caches: Caches) -> float:
    """Squared distance of the caches' logarithms, the last level's at a quarter: it is shared."""
    weights = {"l1": 1.0, "l2": 1.0, "l3": 0.25}
    return sum(
        weight * math.log2((1 + device[f"{level}_kib"]) / (1 + getattr(caches, level))) ** 2
        for level, weight in weights.items()
        if getattr(caches, level)
    )
