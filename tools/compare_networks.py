"""A tuned network against PyTorch on the same machine, in turn, each time in a fresh process.

    uv run cwm tune --network resnet-50 --trials 1600 --export runs/resnet-50.so
    python3 -m venv runs/torch && runs/torch/bin/pip install torch==2.13.0 numpy
    uv run python tools/compare_networks.py resnet-50 runs/resnet-50.so \
        --python runs/torch/bin/python --out tools/results/networks.json

PyTorch runs eagerly and compiled; images in both memory layouts, of which the faster counts.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import orjson

from cwm_jax.bench.repeated_measurements import speedup, time_in_turn
from cwm_jax.tuning.machine import add_figures
from cwm_jax.tvm_bridge.runtime import run_on_all_cores

_TUNED = """
import sys, json
from cwm_jax.tvm_bridge.runtime import use
tvm = use("ansor")
import numpy as np
library, shape, repeats = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
device = tvm.cpu(0)
module = tvm.contrib.graph_executor.GraphModule(tvm.runtime.load_module(library)["default"](device))
module.set_input("data", np.random.default_rng(0).random(shape).astype("float32"))
timer = module.module.time_evaluator("run", device, repeat=repeats, min_repeat_ms=500)
print(json.dumps({"seconds": [float(x) for x in timer().results]}))
"""
_SHAPES = {"resnet-50": (1, 224, 224, 3), "bert-base": (128, 768)}
_RIVALS = {
    "resnet-50": {
        "eager": ("--mode", "eager"),
        "eager NHWC": ("--mode", "eager", "--layout", "NHWC"),
        "compile": ("--mode", "compile"),
        "compile NHWC": ("--mode", "compile", "--layout", "NHWC"),
    },
    "bert-base": {"eager": ("--mode", "eager"), "compile": ("--mode", "compile")},
}


def main() -> None:
    """Runs all in turn and prints medians and ratios."""
    parser = argparse.ArgumentParser(description="A tuned network against PyTorch.")
    parser.add_argument("network", choices=list(_SHAPES))
    parser.add_argument("library", type=Path, help="what cwm tune --export wrote")
    parser.add_argument("--python", required=True, help="interpreter that has PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="JSON to write or to add to")
    options = parser.parse_args()
    run_on_all_cores()
    script = str(Path(__file__).with_name("pytorch_network.py"))
    shape = orjson.dumps(_SHAPES[options.network]).decode()
    commands = {"tuned": [sys.executable, "-c", _TUNED, str(options.library), shape, "3"]}
    for name, arguments in _RIVALS[options.network].items():
        commands[name] = [options.python, script, options.network, *arguments, "--repeats", "3"]
    seconds = time_in_turn(
        commands,
        options.rounds,
        lambda name, taken: print(f"{name:14} {taken * 1e3:.3f} ms", flush=True),
    )
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    speedups: dict[str, Any] = {}
    for mode in ("eager", "compile"):
        best = min(
            (name for name in medians if name.startswith(mode)), key=lambda name: medians[name]
        )
        speedups[mode] = {**speedup(seconds, "tuned", best), "of": best}
        print(f"{speedups[mode]['speedup']:.2f} times as fast as PyTorch {best}")
    add_figures(options.out, options.network, {"seconds": seconds, "speedups": speedups})


if __name__ == "__main__":
    main()
