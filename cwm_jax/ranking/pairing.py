"""Whether a model is asked about what it was trained for."""

import warnings
from collections.abc import Collection

from cwm_jax.features.hardware import HardwareCard, kind_of_target


class PairingWarning(UserWarning):
    """A model ranks for another device, or reads other things, than it was trained on."""


def warn_of_target(card: HardwareCard, target: str, cores: int | None = None) -> None:
    """Warns where a target is not of the device that a model ranks for.

    Args:
        card: The device that the model ranks for.
        target: TVM target string, or the JSON of one.
        cores: CPU cores that the target runs on, if known.
    """
    kind = kind_of_target(target)
    if kind is None:
        warnings.warn(
            f"the world model ranks for {card.name}, a {card.kind}, but of which kind of device "
            f"{target!r} is is unknown: name a target kind of TVM such as llvm or cuda, or add "
            "-keys=cpu or -keys=gpu",
            PairingWarning,
            stacklevel=3,
        )
        return
    wrong_cores = kind == card.kind == "cpu" and cores is not None and cores != card.cores
    if kind == card.kind and not wrong_cores:
        return
    found = f"a {kind}" + (f" of {cores} cores" if wrong_cores else "")
    ranked = f"a {card.kind}" + (f" of {card.cores} cores" if wrong_cores else "")
    warnings.warn(
        f"the world model ranks for {card.name}, {ranked}, but {target!r} is {found}: name its "
        "hardware card (--hardware CARD, Scorer.load(..., hardware=CARD)), or train a checkpoint "
        "for it with `cwm train`",
        PairingWarning,
        stacklevel=3,
    )


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


def warn_of_missing_program() -> None:
    """Warns where a workload is ranked without its compute graph."""
    warnings.warn(
        "workloads without a compute graph are ranked from the shapes in their keys, far worse "
        "than with it: pass `cwm_jax.load_programs(LOG)`, or write LOG.programs.jsonl as "
        "tools/programs_from_tasks.py does",
        PairingWarning,
        stacklevel=3,
    )
