"""A small training run in a process of its own.

    python small_training.py OUT [--snapshots DIR] [--coordinator HOST:PORT PROCESSES PROCESS]

Writes losses and a hash of the final parameters to OUT as JSON.
"""

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import numpy as np

from cwm_jax.compilation import keep_compiled_programs
from cwm_jax.features.hardware import load_hardware
from cwm_jax.model.world_model import ModelConfig, create_model
from cwm_jax.records.graph import load_graphs
from cwm_jax.records.logs import load_records
from cwm_jax.training.config import TrainingConfig
from cwm_jax.training.dataset import build_dataset
from cwm_jax.training.loop import train
from cwm_jax.training.snapshots import Snapshots

LOG = Path(__file__).parent.parent / "data" / "measured.jsonl.gz"
SIZES = ModelConfig(latent_width=16, action_width=16, hardware_width=4, head_width=16)
CONFIG = TrainingConfig(epochs=3, lists=8, candidates=8, learning_rate=1e-3)


def run(snapshots: Snapshots | None, **changes: object) -> dict[str, object]:
    dataset = build_dataset(load_records(LOG), load_graphs(LOG), load_hardware("cpu-x86-2core"))
    keys = sorted(dataset)
    config = dataclasses.replace(CONFIG, **changes)
    trained = train(
        dataset,
        keys,
        keys[:2],
        lambda seed: create_model(SIZES, seed),
        2,
        config,
        snapshots=snapshots,
    )
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(trained.model.state):
        digest.update(np.asarray(leaf).tobytes())
    return {
        "losses": [epoch.loss for epoch in trained.curves],
        "pairwise": [epoch.pairwise for epoch in trained.curves],
        "parameters": digest.hexdigest(),
        "devices": jax.device_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--snapshots", type=Path)
    parser.add_argument("--coordinator", nargs=3)
    options = parser.parse_args()
    keep_compiled_programs()
    if options.coordinator:
        address, processes, process = options.coordinator
        jax.distributed.initialize(address, int(processes), int(process))
    snapshots = Snapshots(options.snapshots, seconds=0) if options.snapshots else None
    options.out.write_text(json.dumps(run(snapshots)))


if __name__ == "__main__":
    main()
