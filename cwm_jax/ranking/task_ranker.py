"""What the cost models of all engines hold: a ranker, and the programs of the tasks they meet."""

from collections.abc import Callable, Hashable
from pathlib import Path

from cwm_jax.features.hardware import kind_of_target
from cwm_jax.ranking.adaptation import AdaptationConfig
from cwm_jax.ranking.nearest import shipped_scorers
from cwm_jax.ranking.online import OnlineRanker
from cwm_jax.ranking.pairing import warn_of_engine, warn_of_target
from cwm_jax.ranking.scorer import Scorer
from cwm_jax.records.program import Program


class TaskRanker:
    """Ranks for the tasks of one engine, each encoded once.

    Args:
        engine: Who searches: `ansor` or `metaschedule`.
        checkpoint: Name of a shipped checkpoint, a checkpoint folder, or a loaded `Scorer`.
        adaptation: How measurements of a workload correct its ranking.

    Attributes:
        online: Ranks by the checkpoint and by what is measured. Where measurements refute the
            checkpoint, the others that are shipped for the engine and the device are asked.

    Raises:
        CheckpointError: The checkpoint is missing or does not fit.
    """

    def __init__(
        self,
        engine: str,
        checkpoint: Path | str | Scorer,
        adaptation: AdaptationConfig | None = None,
    ) -> None:
        scorer = checkpoint if isinstance(checkpoint, Scorer) else Scorer.load(checkpoint)
        self._engine, self._kind = engine, scorer.hardware.kind
        self.online = OnlineRanker(
            scorer,
            adaptation or AdaptationConfig(),
            lambda: shipped_scorers(engine, self._kind),
        )
        self._programs: dict[Hashable, Program] = {}

    def program(
        self, task: Hashable, target: str, cores: int | None, read: Callable[[], Program]
    ) -> Program:
        """Returns the program of a task, read when it is first met.

        Then it warns if the checkpoint is for another device or engine (`PairingWarning`).

        Args:
            task: What tells tasks apart.
            target: TVM target string, or the JSON of one.
            cores: CPU cores that the target runs on, if known.
            read: Returns the program.
        """
        if task not in self._programs:
            self._programs[task] = read()
            scorer = self.online.scorer
            self._kind = kind_of_target(target) or self._kind
            warn_of_target(scorer.hardware, target, cores)
            warn_of_engine(scorer.engines, self._engine)
        return self._programs[task]
