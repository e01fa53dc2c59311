"""Chooses shipped checkpoints by search engine and by similarity of the machine."""

import math
from collections.abc import Sequence
from typing import Any

from cwm_jax.errors import CheckpointError
from cwm_jax.features.hardware import Caches, host_caches
from cwm_jax.model.checkpoint import checkpoints_folder, read_card, shipped_checkpoints
from cwm_jax.ranking.scorer import Scorer


def nearest_checkpoint(engine: str, caches: Caches | None = None) -> str:
    """Returns the shipped CPU checkpoint for the most similar machine, of the engine if possible.

    Caches tell CPUs apart where names do not (cloud machines call several generations alike),
    and are what a tiling is for.

    Args:
        engine: Search engine: `ansor` or `metaschedule`.
        caches: Caches of the machine; this machine's by default.

    Raises:
        CheckpointError: No checkpoint for a CPU is shipped.
    """
    here = caches or host_caches()
    cards = _cards_of("cpu")
    if not cards:
        raise CheckpointError("no checkpoint for a CPU is shipped: name one by --checkpoint")
    strange = {name: engine not in _engines(card) for name, card in cards.items()}
    return min(cards, key=lambda name: (strange[name], *_likeness(name, cards[name], here)))


def shipped_scorers(engine: str, kind: str) -> list[Scorer]:
    """Loads all shipped checkpoints that were trained for a kind of device and an engine.

    Args:
        engine: `ansor` or `metaschedule`.
        kind: `cpu` or `gpu`.

    Returns:
        The scorers; those of CPUs ordered by similarity to this machine.
    """
    here = host_caches() if kind == "cpu" else Caches(0, 0, 0)
    cards = _cards_of(kind)
    known = [name for name, card in cards.items() if engine in _engines(card)]
    return [
        Scorer.load(name)
        for name in sorted(known, key=lambda name: _likeness(name, cards[name], here))
    ]


def _cards_of(kind: str) -> dict[str, dict[str, Any]]:
    """The cards of the shipped checkpoints for devices of a kind, by name."""
    cards = {name: read_card(checkpoints_folder() / name) for name in shipped_checkpoints()}
    return {name: card for name, card in cards.items() if card["hardware"]["kind"] == kind}


def _engines(card: dict[str, Any]) -> Sequence[str]:
    return card.get("engines", ("ansor",))


def _likeness(name: str, card: dict[str, Any], caches: Caches) -> tuple[float, int, str]:
    """Sorts checkpoints by distance of the machine, then by number of other devices."""
    others = len(card.get("other_devices") or ())
    return _distance(card["hardware"], caches), others, name


def _distance(device: dict[str, float], caches: Caches) -> float:
    """Squared distance of the caches' logarithms, the last level's at a quarter: it is shared."""
    weights = {"l1": 1.0, "l2": 1.0, "l3": 0.25}
    return sum(
        weight * math.log2((1 + device[f"{level}_kib"]) / (1 + getattr(caches, level))) ** 2
        for level, weight in weights.items()
        if getattr(caches, level)
    )
