"""Settings of a training run."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Holds the settings of a training run; the model card stores them.

    Attributes:
        seed: Seed of the first parameters, of the split, and of the order of the batches.
        epochs: Passes over the records.
        lists: Lists of candidates in a batch, each of one workload.
        candidates: Most candidates in a list.
        learning_rate: Peak learning rate, after warm-up.
        weight_decay: Weight decay of AdamW.
        listwise_weight: Weight of the listwise loss; the pairwise loss has weight 1.
        ratio_weight: Weight of ratios beside differences of throughput in the pairwise loss.
        temperature: Temperature of the listwise loss's target distribution.
        alignment_weight: Weight of the alignment loss, where lowered programs are known.
        distillation_weight: Weight of the distillation loss, where there is a teacher.
        test: Share of the workloads that are held out for the model card's metrics.
        precision: Precision in which the model computes; parameters and losses are float32.

    Examples:
        >>> TrainingConfig(epochs=3).learning_rate
        0.004
    """

    seed: int = 0
    epochs: int = 30
    lists: int = 8
    candidates: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    listwise_weight: float = 0.5
    ratio_weight: float = 1.0
    temperature: float = 0.1
    alignment_weight: float = 1.0
    distillation_weight: float = 1.0
    test: float = 0.15
    precision: Literal["float32", "bfloat16"] = "float32"
