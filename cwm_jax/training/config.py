"""How a model is trained."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run; stored in the model card.

    Attributes:
        seed: Of parameters, split and order.
        epochs: Passes over the records.
        lists: Workloads a batch.
        candidates: Candidates of each at most.
        learning_rate: Peak, after warm-up.
        weight_decay: Of AdamW.
        listwise_weight: Weight of the listwise loss beside the pairwise one.
        ratio_weight: Weight of ratios beside differences in the pairwise loss.
        temperature: Of the listwise target.
        alignment_weight: Weight of the terminal alignment, where there are targets.
        distillation_weight: Weight of a teacher's scores, where there is one.
        test: Share of workloads that are held out for the model card's metrics.
        precision: In which the model computes; parameters and losses are float32 always.
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
