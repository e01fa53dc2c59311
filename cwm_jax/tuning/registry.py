"""The auto-schedulers that the package knows, described without loading any.

An engine of your own is named `--engine MODULE:NAME`, where NAME is an `EngineDescription` in a
module that Python finds.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cwm_jax.errors import CwmError

if TYPE_CHECKING:
    from cwm_jax.tuning.engine import Engine
    from cwm_jax.tuning.measurement import SearchName

_WORLD_MODEL = ("--cost-model", "world-model")
# As their engines have them: neither measures its best programs again.
_RIVAL = ("--confirm", "0", "--cost-model")
_EVOLUTIONARY = "world-model-evolutionary"
_VARIANTS: dict[str, tuple[str, ...]] = {
    "world-model": _WORLD_MODEL,
    "world-model-unconfirmed": (*_WORLD_MODEL, "--confirm", "0"),
    _EVOLUTIONARY: (*_WORLD_MODEL, "--search", "evolutionary"),
    "world-model-mean": (*_WORLD_MODEL, "--adaptation", "mean"),
    "world-model-pretrained-only": (*_WORLD_MODEL, "--adaptation", "none"),
}
_RIVALS: dict[str, tuple[str, ...]] = {
    "xgboost": (*_RIVAL, "xgboost"),
    "xgboost-pretrained": (*_RIVAL, "xgboost", "--pretrain"),
    "mlp": (*_RIVAL, "mlp", "--pretrain"),
    "random": (*_RIVAL, "random"),
}


@dataclasses.dataclass(frozen=True)
class EngineDescription:
    """What is known of an engine before it is loaded.

    Attributes:
        name: As records and checkpoints name it.
        title: As people name it.
        load: Target as text or None, and whether programs run elsewhere -> the engine. Raises
            `TargetError` and `TvmError`.
        cost_models: Names of the models that can rank; the second is the rival in benchmarks.
        searches: Ways to search.
        in_folder: Whether a search lives in a folder, not in one file.
        scoring_batches: Candidates a call that `cwm bench throughput` times.
        corpus: What a pretrained rival learns from where no corpus is named.
        rival_key: How the JSON of `cwm bench search` calls the rival; "" for its own name.
    """

    name: str
    title: str
    load: Callable[[str | None, bool], "Engine"]
    cost_models: tuple[str, ...] = ("world-model", "xgboost", "random")
    searches: "tuple[SearchName, ...]" = ("planner", "evolutionary")
    in_folder: bool = False
    scoring_batches: tuple[int, ...] = (64, 2048)
    corpus: Path | None = None
    rival_key: str = ""

    @property
    def rival(self) -> str:
        """Returns the cost model that the world model is compared with."""
        return next(name for name in self.cost_models if name != "world-model")

    @property
    def variants(self) -> dict[str, tuple[str, ...]]:
        """Ways to search that `cwm bench search` compares, as options of `cwm tune`.

        A corpus follows `--pretrain`.
        """
        rivals = {
            name: options
            for name, options in _RIVALS.items()
            if options[len(_RIVAL)] in self.cost_models
        }
        ours = {
            name: options
            for name, options in _VARIANTS.items()
            if name != _EVOLUTIONARY or "evolutionary" in self.searches
        }
        return ours | rivals


def _ansor(target: str | None, remote: bool) -> "Engine":
    return importlib.import_module("cwm_jax.tuning.ansor.engine").load(target, remote=remote)


def _metaschedule(target: str | None, remote: bool) -> "Engine":
    return importlib.import_module("cwm_jax.tuning.metaschedule.engine").load(target, remote=remote)


ENGINES: Mapping[str, EngineDescription] = {
    "ansor": EngineDescription(
        "ansor",
        "Ansor",
        _ansor,
        scoring_batches=(64, 2048, 10000),
        corpus=Path("tools/corpus/cpu-x86-2core"),
    ),
    "metaschedule": EngineDescription(
        "metaschedule",
        "MetaSchedule",
        _metaschedule,
        cost_models=("world-model", "xgboost", "mlp", "random"),
        in_folder=True,
        rival_key="xgb",
        scoring_batches=(64, 512, 2048),
        corpus=Path("tools/corpus/cpu-x86-zen5-metaschedule"),
    ),
}
"""The engines that come with the package. Another one is named by its module."""


def find_engine(name: str) -> EngineDescription:
    """Returns the description of an engine.

    Args:
        name: Name of one in `ENGINES`, or `MODULE:NAME` of a description in a module.

    Raises:
        CwmError: There is none of this name.
    """
    if name in ENGINES:
        return ENGINES[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute) if attribute else None
    except (ImportError, AttributeError, ValueError) as error:
        raise CwmError(f"engine {name!r}: cannot be loaded ({error})") from error
    if not isinstance(found, EngineDescription):
        raise CwmError(
            f"engine {name!r}: expected one of {', '.join(ENGINES)}, or MODULE:NAME of an "
            "EngineDescription"
        )
    return found
