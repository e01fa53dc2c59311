"""`cwm tune --engine metaschedule --network`: all modules of a network, then the network."""

import argparse
import math
from typing import TYPE_CHECKING

from cwm_jax.cli.common import open_console, say
from cwm_jax.cli.network_outcome import (
    NetworkTask,
    check_export,
    check_trials,
    finish,
    print_tasks,
)
from cwm_jax.cli.searching import load_scorer, search_folder, shown_search
from cwm_jax.cli.tune_metaschedule import search_config
from cwm_jax.cli.tune_network import TIMINGS

if TYPE_CHECKING:
    from cwm_jax.tuning.network import NetworkRound


def run_relax(options: argparse.Namespace) -> int:
    """Tunes, compiles, times and exports a network."""
    check_export(options.export)
    folder = search_folder(options, options.network)
    scorer = load_scorer(options)

    from cwm_jax.tuning.metaschedule.networks import (
        check_network,
        compile_network,
        graphs_of_tasks,
        random_arguments,
        time_executable,
        tune_modules,
    )
    from cwm_jax.tuning.metaschedule.relax import extract_modules, load_relax_network
    from cwm_jax.tuning.metaschedule.targets import resolve_target
    from cwm_jax.tvm_bridge.metaschedule.tir import name_of_function
    from cwm_jax.tvm_bridge.runtime import use

    tvm = use("metaschedule")
    target = resolve_target(tvm, options.target, remote=bool(options.rpc))
    network, module = load_relax_network(tvm, options.network, target)
    tasks = extract_modules(tvm, module, target)
    check_trials(options, len(tasks))
    check_network(tvm, options.network, module, target)
    arguments = random_arguments(module, options.seed)
    graphs = graphs_of_tasks(tvm, tasks)
    config = search_config(options, len(tasks))
    console = open_console()
    say(console, f"{network}: {len(tasks)} tasks on {target}, folder {folder}")
    with shown_search(console, config.trials, folder, "estimated latency") as show:

        def report(done: "NetworkRound") -> None:
            show(done.trials, done.network_latency)

        result = tune_modules(
            tvm, tasks, graphs, target, config, folder, scorer=scorer, report=report
        )
    rows = [
        NetworkTask(graph.workload_key, name_of_function(task), weight, graph.flop)
        for graph, (task, weight) in zip(graphs, tasks, strict=True)
    ]
    print_tasks(console, rows, result)
    if math.isinf(min(result.best_latencies)):
        why = result.first_error or "no candidate was found"
        say(console, f"none of {sum(result.trials)} trials succeeded ({why}); folder {folder}")
        return 1
    say(console, f"compiling {network}")
    executable = compile_network(tvm, module, target, folder)
    timings = time_executable(tvm, executable, target, arguments, TIMINGS, config.tracker)
    finish(options, console, network, str(target), rows, result, timings, executable, folder)
    return 0
