"""Warnings where a model ranks candidates of a device or engine that it was not trained for."""

import warnings
from collections.abc import Collection, Iterable, Mapping

from cwm_jax.features.hardware import HardwareCard, kind_of_target
from cwm_jax.records.record import Record


class PairingWarning(UserWarning):
    """Warns that a model ranks candidates unlike those it was trained on."""


def warn_of_records(
    card: HardwareCard, engines: Collection[str], records: Iterable[Record]
) -> None:
    """Warns where records are of another device or engine than a model ranks for.

    Args:
        card: The device that the model ranks for.
        engines: Whose records it was trained on.
        records: What it is to rank.
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
