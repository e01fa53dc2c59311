"""Which checkpoint suits what: shipped ones by engine and machine, and warnings where none does."""

import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from cwm_jax.errors import CheckpointError
from cwm_jax.features.hardware import Caches, HardwareCard, host_caches, kind_of_target
from cwm_jax.model.checkpoint import checkpoints_folder, read_card, shipped_checkpoints
from cwm_jax.records.record import Record


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


def checkpoints_by_likeness(engine: str, kind: str) -> list[str]:
    """Returns the shipped checkpoints that were trained for an engine and a kind of device.

    Args:
        engine: `ansor` or `metaschedule`.
        kind: `cpu` or `gpu`.

    Returns:
        Their names; those of CPUs ordered by similarity to this machine.
    """
    here = host_caches() if kind == "cpu" else Caches(0, 0, 0)
    cards = _cards_of(kind)
    known = [name for name, card in cards.items() if engine in _engines(card)]
    return sorted(known, key=lambda name: _likeness(name, cards[name], here))


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


class PairingWarning(UserWarning):
    """Warns that a model ranks candidates unlike those it was trained on."""


def warn_of_records(
    card: HardwareCard, engines: Collection[str], records: Iterable[Record]
) -> None:
    """Warns where records are of another device or engine than a model ranks for.

    Args:
        card: The device that the model ranks for.
        engines: Whose records it was trained on.
        records: The records to rank.
    """
    seen = dict.fromkeys((record.target, record.cores, record.engine) for record in records)
    for target, cores in dict.fromkeys((target, cores) for target, cores, _ in seen):
        warn_of_target(card, target, cores)
    for engine in dict.fromkeys(engine for _, _, engine in seen):
        warn_of_engine(engines, engine)


def warn_of_training(card: HardwareCard, counts: Mapping[tuple[str, int | None], int]) -> None:
    """Warns where records to train on are of another device than the card that is given for them.

    Args:
        card: The device that they are said to be of.
        counts: How many there are of each target and number of CPU cores.
    """
    for (target, cores), count in counts.items():
        found = _other_device(card, target, cores)
        if found is not None:
            warnings.warn(
                f"{count} records to train on are said to be of {card.name}, {found[0]}, but "
                f"their target {target!r} is {found[1]}: keep them in a log of their own, and "
                "train on it by --also CARD=LOG",
                PairingWarning,
                stacklevel=3,
            )


def warn_of_target(card: HardwareCard, target: str, cores: int | None = None) -> None:
    """Warns where a target is not of the device that a model ranks for.

    Args:
        card: The device that the model ranks for.
        target: TVM target string, or the JSON of one.
        cores: CPU cores that the target runs on, if known.
    """
    if not target:
        warnings.warn(
            f"records do not say their target, and are ranked as {card.name}'s: name the hardware "
            "card of their device (--hardware CARD) if it is another",
            PairingWarning,
            stacklevel=3,
        )
        return
    if kind_of_target(target) is None:
        warnings.warn(
            f"the world model ranks for {card.name}, a {card.kind}, but of which kind of device "
            f"{target!r} is is unknown: name a target kind of TVM such as llvm or cuda, or add "
            "-keys=cpu or -keys=gpu",
            PairingWarning,
            stacklevel=3,
        )
        return
    found = _other_device(card, target, cores)
    if found is None:
        return
    ranked, other = found
    warnings.warn(
        f"the world model ranks for {card.name}, {ranked}, but {target!r} is {other}: name its "
        "hardware card (--hardware CARD, Scorer.load(..., hardware=CARD)), or train a checkpoint "
        "for it with `cwm train`",
        PairingWarning,
        stacklevel=3,
    )


def _other_device(card: HardwareCard, target: str, cores: int | None) -> tuple[str, str] | None:
    """What a card's device is and what a target's is; None where they do not contradict."""
    kind = kind_of_target(target)
    if kind is None:
        return None
    wrong_cores = kind == card.kind == "cpu" and cores is not None and cores != card.cores
    if kind == card.kind and not wrong_cores:
        return None
    ranked = f"a {card.kind}" + (f" of {card.cores} cores" if wrong_cores else "")
    return ranked, f"a {kind}" + (f" of {cores} cores" if wrong_cores else "")


def warn_of_engine(engines: Collection[str], engine: str) -> None:
    """Warns where a model has seen no steps of an engine.

    Args:
        engines: Whose records it was trained on.
        engine: Whose schedules it is to rank.
    """
    if engine in engines:
        return
    warnings.warn(
        f"the world model was trained on steps of {' and '.join(sorted(engines))} only, but ranks "
        f"those of {engine}: their vocabularies differ, so measure some records with "
        f"`cwm collect --engine {engine}` and train on them with `cwm train --also`",
        PairingWarning,
        stacklevel=3,
    )


def warn_of_unknown_kinds(kinds: Collection[str]) -> None:
    """Warns where steps are of kinds that a model was not trained with.

    Args:
        kinds: The kinds.
    """
    warnings.warn(
        f"the world model was trained without step kinds {', '.join(sorted(kinds))}: it ranks such "
        "steps by their numbers alone; train a checkpoint on records that hold them",
        PairingWarning,
        stacklevel=4,
    )


def warn_of_missing_graph() -> None:
    """Warns where a workload is ranked without its compute graph."""
    warnings.warn(
        "workloads without a compute graph are ranked from the shapes in their keys, far worse "
        "than with it: pass `cwm_jax.load_graphs(LOG)`; of a MetaSchedule database "
        "`cwm import FOLDER --out LOG` writes them",
        PairingWarning,
        stacklevel=3,
    )
