"""The files of a corpus.

A corpus is a folder:
    machine.json           what it was measured on
    tasks.jsonl.gz         its workloads (`cwm_jax.tvm_bridge.corpus_tasks`)
    records.jsonl.gz       an Ansor log, one gzip member a round
    records.programs.jsonl.gz   the compute graphs, so that training needs no TVM
    reference.jsonl        every run of the reference program
    remeasured.jsonl.gz    records measured once more, to know the noise
    traces.jsonl.gz        of MetaSchedule, its own form of the records
"""

import dataclasses
from pathlib import Path

from cwm_jax.tuning.machine import NOTE


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The files of a corpus.

    Attributes:
        folder: Where they lie.
    """

    folder: Path

    @property
    def machine(self) -> Path:
        """What the corpus was measured on."""
        return self.folder / NOTE

    @property
    def tasks(self) -> Path:
        """Its workloads."""
        return self.folder / "tasks.jsonl.gz"

    @property
    def records(self) -> Path:
        """Its measurements."""
        return self.folder / "records.jsonl.gz"

    @property
    def programs(self) -> Path:
        """Its compute graphs."""
        return self.folder / "records.programs.jsonl.gz"

    @property
    def reference(self) -> Path:
        """Runs of the reference program."""
        return self.folder / "reference.jsonl"

    @property
    def remeasured(self) -> Path:
        """Records measured once more."""
        return self.folder / "remeasured.jsonl.gz"

    @property
    def traces(self) -> Path:
        """MetaSchedule's form of the records."""
        return self.folder / "traces.jsonl.gz"
