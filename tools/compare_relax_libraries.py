"""A network as several searches of MetaSchedule tuned it, in turn, each time in a fresh process.

    uv run cwm tune --engine metaschedule --network bert-tiny --export runs/ours.so
    uv run cwm tune --engine metaschedule --network bert-tiny --cost-model xgboost \
        --export runs/theirs.so
    uv run python tools/compare_relax_libraries.py bert-tiny world-model=runs/ours.so \
        xgboost=runs/theirs.so --out tools/results/relax.json

The first is compared with each of the others.
"""

import argparse
import sys
from pathlib import Path

from cwm_jax.bench.repeated_measurements import speedup, time_in_turn
from cwm_jax.tuning.machine import add_figures
from cwm_jax.tvm_bridge.runtime import run_on_all_cores

_RUN = """
import sys, json
from cwm_jax.tvm_bridge.runtime import use
tvm = use("metaschedule")
from cwm_jax.tuning.metaschedule.networks import random_arguments, time_executable
from cwm_jax.tuning.metaschedule.targets import host_target
from cwm_jax.tuning.metaschedule.relax import load_relax_network
network, library = sys.argv[1:]
arguments = random_arguments(load_relax_network(tvm, network).module, 0)
found = time_executable(tvm, tvm.runtime.load_module(library), host_target(tvm), arguments, 3)
print(json.dumps({"seconds": found}))
"""


def main() -> None:
    """Runs all in turn and prints medians, and how many times as fast the first one is."""
    parser = argparse.ArgumentParser(description="Libraries of one network against each other.")
    parser.add_argument("network", help="as for cwm tune --network")
    parser.add_argument("libraries", nargs="+", metavar="NAME=FILE", help="cwm tune --export wrote")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="JSON to write or to add to")
    options = parser.parse_args()
    run_on_all_cores()
    libraries = dict(text.split("=", 1) for text in options.libraries)
    seconds = time_in_turn(
        {
            name: [sys.executable, "-c", _RUN, options.network, file]
            for name, file in libraries.items()
        },
        options.rounds,
        lambda name, taken: print(f"{name:14} {taken * 1e3:.3f} ms", flush=True),
    )
    first, *rivals = seconds
    speedups = {rival: speedup(seconds, first, rival) for rival in rivals}
    for rival, found in speedups.items():
        print(f"{first} is {found['speedup']:.2f} times as fast as {rival}")
    add_figures(options.out, options.network, {"seconds": seconds, "speedups": speedups})


if __name__ == "__main__":
    main()
