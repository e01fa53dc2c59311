"""Trains MetaSchedule's MLPModel on corpora, for searches with `--cost-model mlp --pretrain FILE`.

    python tools/pretrain_mlp.py CORPUS... --out FILE

Needs PyTorch. The networks that are held out of training (`cwm_jax.tuning.corpus`) are
left out here, too.
"""

import argparse
from pathlib import Path

from cwm_jax.tuning.metaschedule.cost_models import save_mlp, train_mlp
from cwm_jax.tvm_bridge.runtime import use


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="+", type=Path, metavar="CORPUS")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = train_mlp(use("metaschedule"), options.corpora)
    save_mlp(model, options.out)
    print(f"wrote {options.out}: learned {model.trainer.state.data_size} records")


if __name__ == "__main__":
    main()
