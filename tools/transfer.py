"""Transfer to a device that training has not seen: zero-shot, and with few of its records.

    uv run python tools/transfer.py cpu-x86-2core=tools/corpus/cpu-x86-2core \
        cuda-v100=runs/v100 cuda-k80=runs/k80 --leave-out cuda-k80 --out runs/transfer.json

A fifth of all workloads is held out, on every device alike. The model is trained on the other
devices' remaining workloads, then goes on with 64, 256 and 1,024 records of the left-out device,
beside a fresh model with the same records. For comparison, models are trained on all devices'
remaining workloads together, with and without the hardware vector.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cwm_jax.cli.common import write_json
from cwm_jax.compilation import keep_compiled_programs
from cwm_jax.features.hardware import load_hardware
from cwm_jax.model.ensemble import Ensemble
from cwm_jax.model.world_model import ModelConfig, create_model
from cwm_jax.records.graph import graphs_beside, read_graphs
from cwm_jax.records.lines import LogSummary
from cwm_jax.records.store_features import load_with_stores
from cwm_jax.training.config import TrainingConfig
from cwm_jax.training.dataset import WorkloadData, build_dataset, split_workloads
from cwm_jax.training.loop import evaluate_model, train
from cwm_jax.tuning.corpus import Corpus

_FEW = (64, 256, 1024)
_MEMBERS = 2
_PER_WORKLOAD = 16


def main() -> None:
    """Trains, transfers and prints."""
    parser = argparse.ArgumentParser(description="Transfer to an unseen device.")
    parser.add_argument("corpora", nargs="+", metavar="HARDWARE=FOLDER")
    parser.add_argument("--leave-out", required=True, metavar="HARDWARE")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    keep_compiled_programs()
    devices = dict(text.split("=", 1) for text in options.corpora)
    datasets = {name: load(name, Path(folder)) for name, folder in devices.items()}
    keys = sorted({key for dataset in datasets.values() for key in dataset})
    split = split_workloads(keys, test=0.2, seed=0)
    target = datasets.pop(options.leave_out)
    test = [key for key in split.test if key in target]
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        config = TrainingConfig(seed=seed, epochs=options.epochs)
        together = {
            f"{name} {key}": w for name, data in datasets.items() for key, w in data.items()
        }
        known = set(split.train)
        training = [name for name in together if name.split(" ", 1)[1] in known]
        base = fit(together, training, config)
        rows.append(judge("zero-shot", 0, seed, base, target, test))
        own = [key for key in split.train if key in target]
        everything = together | {key: target[key] for key in own}
        count = sum(len(target[key].latencies) for key in own)
        for name, hidden in (("all devices", False), ("no hardware vector", True)):
            data, judged = (
                (without_hardware(part) if hidden else part) for part in (everything, target)
            )
            model = fit(data, [*training, *own], config)
            rows.append(judge(name, count, seed, model, judged, test))
        for few in _FEW:
            sample = draw(target, split.train, few, seed)
            names = sorted(sample)
            for name, initial in (("adapted", base), ("from scratch", None)):
                model = fit(sample, names, config, initial)
                rows.append(judge(name, few, seed, model, target, test))
        write_json(options.out, {"left_out": options.leave_out, "rows": rows})


def load(hardware: str, folder: Path) -> dict[str, WorkloadData]:
    """Reads a corpus folder."""
    log = Corpus(folder).records
    records, stores = load_with_stores([log], LogSummary())
    beside = graphs_beside(log)
    graphs = read_graphs(beside) if beside else {}
    return build_dataset(records, graphs, load_hardware(hardware), stores)


def without_hardware(dataset: dict[str, WorkloadData]) -> dict[str, WorkloadData]:
    """Hides from the model which device measured."""
    return {
        key: dataclasses.replace(workload, hardware=0 * workload.hardware)
        for key, workload in dataset.items()
    }


def draw(
    dataset: dict[str, WorkloadData], allowed: Sequence[str], count: int, seed: int
) -> dict[str, WorkloadData]:
    """Draws records, at most `_PER_WORKLOAD` of each workload, until there are `count`."""
    rng = np.random.default_rng(seed)
    keys = [key for key in allowed if key in dataset]
    found: dict[str, WorkloadData] = {}
    left = count
    for at in rng.permutation(len(keys)):
        workload = dataset[keys[at]]
        size = min(left, _PER_WORKLOAD, len(workload.latencies))
        if size < 2:
            continue
        rows = rng.permutation(len(workload.latencies))[:size]
        latencies = workload.latencies[rows]
        found[workload.key] = dataclasses.replace(
            workload,
            steps=workload.steps.take(rows),
            latencies=latencies,
            throughput=latencies.min() / latencies,
            alignment=workload.alignment[rows],
        )
        left -= size
    return found


def fit(
    dataset: dict[str, WorkloadData],
    training: Sequence[str],
    config: TrainingConfig,
    initial: Ensemble | None = None,
) -> Ensemble:
    """Trains a small ensemble."""
    if initial is not None:
        config = dataclasses.replace(config, learning_rate=config.learning_rate / 4)

    def create(seed: int) -> Any:
        return create_model(ModelConfig(), seed)

    trained = train(dataset, training, (), create, _MEMBERS, config, initial=initial)
    return trained.model


def judge(
    name: str,
    records: int,
    seed: int,
    model: Ensemble,
    target: dict[str, WorkloadData],
    test: Sequence[str],
) -> dict[str, Any]:
    """Ranks the held-out workloads of the left-out device."""
    metrics = evaluate_model(model, target, test)
    print(
        f"seed {seed} {name:18} {records:5} records: top-1 {metrics.top1:.3f} "
        f"top-5 {metrics.top5:.3f} pairwise {metrics.pairwise:.3f} "
        f"Spearman {metrics.spearman:.3f}",
        flush=True,
    )
    return {"model": name, "records": records, "seed": seed} | dataclasses.asdict(metrics)


if __name__ == "__main__":
    main()
